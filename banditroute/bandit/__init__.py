"""The bandit in pure numbers: evidence, posterior and choice; arrays and keys in, arrays out.

``evidence`` sums what came back, ``posterior.derive`` says what it means, ``thompson.Policy`` chooses. There is no
clock, no I/O and no global random state here.
"""

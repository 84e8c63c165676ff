"""Turn a request into a small numeric context, at a few hundred nanoseconds of machine code each.

The package stands alone (numpy and numba only) and needs no router:

>>> from types import SimpleNamespace
>>> spec = FeatureSpec(seed=7)
>>> request = SimpleNamespace(
...     prompt="What is 2 + 2?", messages=None, tenant=None, tags=["maths"], input_tokens=None
... )
>>> x = Encoder(spec).encode(request)
>>> x.shape, x.dtype, float(x[0])
((32,), dtype('float32'), 1.0)
"""

from .encoder import Encoder
from .fitted import Fitted
from .protocol import Message, RequestLike
from .spec import Block, FeatureSpec
from .tokens import TokenRatio

__all__ = ["Block", "Encoder", "FeatureSpec", "Fitted", "Message", "RequestLike", "TokenRatio"]

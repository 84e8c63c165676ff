"""Choosing a model: the policy, its working copy between two derives, and when a model has changed."""

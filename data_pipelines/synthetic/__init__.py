"""Synthetic faces: pictures drawn from parameters, with every parameter known.

`sample_factors(seed, index)` says what a face is like and `draw(factors, size)` paints it. The expression comes from
facial action units as in EMFACS; identity, skin tone, pose, light and occlusion are drawn independently of it, so a
network can be trained in minutes without any data set, and its robustness measured along each factor.
"""

from data_pipelines.synthetic.drawing import draw
from data_pipelines.synthetic.factors import EMFACS, EMOTIONS, Factors, sample_factors

__all__ = ["EMFACS", "EMOTIONS", "Factors", "draw", "sample_factors"]

"""What decides, and the models it decides by.

====================  ================================================================
``models``            shapes of dense Llama-like models: parameters, KV per token
``performance``       roofline time and power of an engine step on catalog GPUs
``curves``            hit rate over capacity
``planner``           tier sizes over the coming hours that keep the SLO with the fewest grams
====================  ================================================================
"""

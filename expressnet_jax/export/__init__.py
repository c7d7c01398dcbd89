"""Models out: an artifact is a folder with weights, graphs and a model card, checked before it is called one."""

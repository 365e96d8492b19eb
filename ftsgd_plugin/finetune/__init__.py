"""From a directory of images and the name of a model to a fine-tuned classifier; the steps of ``tools/finetune.py``."""

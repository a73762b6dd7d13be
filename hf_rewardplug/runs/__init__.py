"""Runs from a command line or a file to the last figure: what the recipes' scripts and `rewardplug train` share.

arguments.py    the words of a recipe's command line and YAML file -> `RecipeArguments` and the trainer's config
splits.py       `RecipeArguments` -> rows to train on and held-out rows; mixture.py does so for several data sets
recipe.py       a whole recipe, whose errors end as one line
training.py     a trainer -> a saved model, figures and tables
launchers.py    what DeepSpeed needs on a machine without a GPU
"""

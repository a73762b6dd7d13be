"""axolotl's reward models: a plugin for axolotl, and its config files without axolotl.

plugins:
  - hf_rewardplug.integrations.axolotl.RewardPlugPlugin   # in a config of axolotl's: trains with this package
                                                          # (axolotl 0.21 finds the plugin without these lines)

rewardplug train config.yaml                              # the same file, axolotl need not be installed
"""


def __getattr__(name: str):
    if name == "RewardPlugPlugin":  # imports axolotl, which the other modules here do without
        from .plugin import RewardPlugPlugin

        return RewardPlugPlugin
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

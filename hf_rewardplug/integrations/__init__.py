"""Other people's training frameworks, and their config files.

In: a config of theirs. Out: a run with this package's trainers. This room uses `train`; nobody uses it but `cli`,
`train.__main__` and the frameworks themselves.
"""

"""A YAML file of options, read with care: in goes a path, out come its keys and values.

PyYAML's safe loader runs nothing, but a few hundred bytes of aliases within aliases make gigabytes, nesting without end
breaks Python's stack, and of a key that is there twice the last one wins in silence. All three are errors here.
"""

from pathlib import Path
from typing import Any

import yaml

MOST_CHARACTERS = 1_000_000
"""of a file in which every alias is written out"""

MOST_LEVELS = 32


def read_yaml(path: str | Path, *, such_as: str = "base_model: ...") -> dict[str, Any]:
    """The keys and values of a file.

    Args:
        such_as: a line that the file may hold, for the error.

    Raises:
        ValueError: no YAML, no keys with values, a key that is there twice, more levels or aliases than options need.
        OSError: no such file.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_CarefulLoader)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"'{path}' is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' holds {type(content).__name__}; expected keys, such as `{such_as}`.")
    return content


class _CarefulLoader(yaml.SafeLoader):
    """Counts levels on the way down, and on the way up what each node is when its aliases are written out."""

    def __init__(self, stream):
        super().__init__(stream)
        self.level = 0
        self.extents: dict[yaml.Node, tuple[int, int]] = {}  # node: characters, levels

    def compose_node(self, parent, index):
        self.level, event = self.level + 1, self.peek_event()
        self._bound(self.level, MOST_LEVELS, "levels", event.start_mark)
        node = super().compose_node(parent, index)
        self.level -= 1
        if node not in self.extents:
            if isinstance(event, yaml.AliasEvent):  # of a node that is not whole yet
                raise yaml.MarkedYAMLError(problem="an alias holds itself", problem_mark=event.start_mark)
            self.extents[node] = self._extent(node)
        return node

    def compose_mapping_node(self, anchor):
        node, names = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name = key.value if key.tag == "tag:yaml.org,2002:merge" else self.construct_object(key, deep=True)
                if name in names:
                    raise yaml.MarkedYAMLError(problem=f"the key '{name}' is there twice", problem_mark=key.start_mark)
                names.add(name)
        return node

    def _extent(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value), 1
        pairs = isinstance(node, yaml.MappingNode)
        inner = [part for pair in node.value for part in pair] if pairs else node.value
        characters = 1 + sum(self.extents[part][0] for part in inner)
        levels = 1 + max((self.extents[part][1] for part in inner), default=0)
        self._bound(characters, MOST_CHARACTERS, "characters, its aliases written out,", node.start_mark)
        self._bound(levels, MOST_LEVELS, "levels", node.start_mark)
        return characters, levels

    @staticmethod
    def _bound(count: int, most: int, what: str, mark: yaml.Mark) -> None:
        if count > most:
            raise yaml.MarkedYAMLError(problem=f"more than {most:,} {what} are no options", problem_mark=mark)

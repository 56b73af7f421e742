"""nefia.yaml: every key, where the file is found, and what is wrong with it (SPEC 1).

`schema` is the table of keys, made of `kinds`; `reader` turns a file into values with their lines;
`checks` compares them with each other; `places` knows the paths; `loader` puts it together. This
package is imported by every command, so it imports ruamel.yaml only when a file is read.
"""

from nefia.config.kinds import parse_address, parse_node_id
from nefia.config.loader import default, load, state_dir_for_client
from nefia.config.places import find_config, require_config, resolve_state_dir
from nefia.config.reference import reference_markdown
from nefia.config.schema import ClusterConfig, Config, PeerConfig, RaftConfig
from nefia.config.services import EXTERNAL_KINDS, ServiceConfig

__all__ = [
    "EXTERNAL_KINDS",
    "ClusterConfig",
    "Config",
    "PeerConfig",
    "RaftConfig",
    "ServiceConfig",
    "default",
    "find_config",
    "load",
    "parse_address",
    "parse_node_id",
    "reference_markdown",
    "require_config",
    "resolve_state_dir",
    "state_dir_for_client",
]

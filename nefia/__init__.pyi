from nefia.clock import BootClock as BootClock
from nefia.config import Config as Config
from nefia.embedding import EmbeddedNode as EmbeddedNode
from nefia.embedding import load_config as load_config
from nefia.embedding import open_node as open_node
from nefia.errors import MachineFailed as MachineFailed
from nefia.errors import NefiaError as NefiaError
from nefia.errors import OtherMachine as OtherMachine
from nefia.errors import Refused as Refused
from nefia.services.interface import Tenure as Tenure
from nefia.state.application import StateMachine as StateMachine

__version__: str

"""What do tests of all folders share?"""

from tests.support.llama import llama_server

__all__ = ["llama_server"]

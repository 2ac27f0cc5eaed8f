"""Reloads the configuration while the daemon runs; one that cannot be used changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..errors import MachineError, UsageError
from ..spec.config import Config
from ..storage.files import disk_errors
from .watcher import Notify

logger = logging.getLogger(__name__)


class Reload:
    """Passes a new configuration to `use`. `reread` returns one when there is one, and may raise UsageError.

    One that a fault of the machine keeps from being checked is tried again; the old one stays until then.
    """

    def __init__(
        self, reread: Callable[[], Config | None], use: Callable[[Config], None], notify: Notify
    ) -> None:
        self.reread = reread
        self.use = use
        self.notify = notify
        self._wanted: Config | None = None  # read, but not in use yet
        self._fault = ""

    def if_asked(self) -> bool:
        """Use a new configuration if there is one, and tell whether one is in use now."""
        try:
            with disk_errors():
                self._wanted = self.reread() or self._wanted
                if self._wanted is None:
                    return False
                logger.debug("a new configuration was read")
                self.use(self._wanted)
        except UsageError as error:
            self._wanted = None
            self.notify("reload", f"the old configuration stays: {error}")
            return False
        except MachineError as error:
            if error.message != self._fault:
                self.notify("reload", f"the old configuration stays for now: {error}")
            self._fault = error.message
            return False
        self._wanted, self._fault = None, ""
        return True

"""The key providers that come along do what the suite asks of every one."""

from __future__ import annotations

from flinkray.checkpoint.key_providers import LocalKeyProvider
from flinkray.checkpoint.keys import KeyProvider
from flinkray.checkpoint.sealing import KEY_BYTES
from flinkray.testing.key_provider_suite import KeyProviderSuite


class TestLocalKeyProvider(KeyProviderSuite):
    def provider(self) -> KeyProvider:
        return LocalKeyProvider(bytes(range(KEY_BYTES)), "a key of this test")

    def other(self) -> KeyProvider:
        return LocalKeyProvider(bytes(KEY_BYTES), "another key of this test")

"""What every key provider must do, as tests to inherit.

class TestMyKeyProvider(KeyProviderSuite):
    def provider(self): ...                # made anew at each call, from the same key
    def other(self): ...                   # of the same kind, with another key
"""

from __future__ import annotations

import os

import pytest

from flinkray.checkpoint.base import ObjectStore
from flinkray.checkpoint.keys import DataKey, DataKeyLostError, KeyProvider, KeyRing
from flinkray.checkpoint.memory_store import MemoryStore
from flinkray.checkpoint.sealing import KEY_BYTES
from flinkray.errors import KeyUnavailableError


class KeyProviderSuite:
    """Inherit, and say how to make two providers."""

    def provider(self) -> KeyProvider:
        raise NotImplementedError

    def other(self) -> KeyProvider:
        raise NotImplementedError

    def test_what_one_process_wraps_another_one_unwraps(self) -> None:
        key = _data_key()
        assert self.provider().unwrap(key.key_id, self.provider().wrap(key)).secret == key.secret

    def test_equal_keys_have_equal_ids_and_other_keys_others(self) -> None:
        assert self.provider().key_id == self.provider().key_id
        assert self.provider().key_id != self.other().key_id

    def test_ids_are_names_of_objects(self) -> None:
        key_id = self.provider().key_id
        assert key_id
        assert all(character.isalnum() or character in "._-" for character in key_id), key_id

    def test_a_wrapped_key_does_not_show_what_it_wraps(self) -> None:
        provider, key = self.provider(), _data_key()
        assert key.secret not in provider.wrap(key)
        assert provider.description

    def test_a_wrapped_key_passes_for_no_other_data_key(self) -> None:
        provider, key = self.provider(), _data_key()
        with pytest.raises(DataKeyLostError):
            provider.unwrap(_data_key().key_id, provider.wrap(key))

    def test_every_changed_byte_is_noticed(self) -> None:
        provider, key = self.provider(), _data_key()
        wrapped = provider.wrap(key)
        for position in range(len(wrapped)):
            damaged = wrapped[:position] + bytes([wrapped[position] ^ 1]) + wrapped[position + 1 :]
            with pytest.raises(DataKeyLostError):
                provider.unwrap(key.key_id, damaged)

    @pytest.mark.parametrize("length", [0, 1, 16])
    def test_a_wrapped_key_that_was_cut_off_is_noticed(self, length: int) -> None:
        provider, key = self.provider(), _data_key()
        with pytest.raises(DataKeyLostError):
            provider.unwrap(key.key_id, provider.wrap(key)[:length])

    def test_another_key_opens_nothing(self) -> None:
        key = _data_key()
        with pytest.raises(DataKeyLostError):
            self.other().unwrap(key.key_id, self.provider().wrap(key))

    def test_storage_says_which_key_it_needs(self) -> None:
        store: ObjectStore = MemoryStore(f"key-provider-suite-{os.urandom(8).hex()}")
        key = KeyRing(store, self.provider()).create(1)
        assert KeyRing(store, self.provider()).get(key.key_id).secret == key.secret
        with pytest.raises(KeyUnavailableError, match=self.provider().key_id):
            KeyRing(store, self.other()).get(key.key_id)


def _data_key() -> DataKey:
    return DataKey(f"c1-{os.urandom(16).hex()}", os.urandom(KEY_BYTES))

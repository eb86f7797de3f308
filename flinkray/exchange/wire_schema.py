"""What a channel's batches look like on the wire: the declared schema with dictionaries decoded."""

from __future__ import annotations

import pyarrow as pa

from flinkray.errors import OperatorError
from flinkray.exchange.base import ChannelId


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without dictionaries, at any depth of lists and structs."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(plain_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    return kind


def plain_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_type(plain_type(field.type)) for field in schema])


class WireSchema:
    """Makes each batch of a channel fit one schema: the declared one, or else that of the first batch."""

    __slots__ = ("_channel", "schema")

    def __init__(self, channel: ChannelId, declared: pa.Schema | None) -> None:
        self._channel = channel
        self.schema = None if declared is None else plain_schema(declared)

    def fit(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch itself when it fits. Raises OperatorError naming the channel when it cannot be made to fit."""
        if self.schema is None:
            self.schema = plain_schema(batch.schema)
        if batch.schema.equals(self.schema):
            return batch
        return self._converted(batch, self.schema)

    def _converted(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        if sorted(batch.schema.names) != sorted(schema.names):
            raise self._error(batch, "the columns are others")
        columns = []
        for field in schema:
            column = batch.column(field.name)
            if plain_type(column.type) != field.type:
                raise self._error(batch, f"column {field.name!r} is {column.type}, expected {field.type}")
            columns.append(column.cast(field.type))
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _error(self, batch: pa.RecordBatch, what: str) -> OperatorError:
        channel = self._channel
        return OperatorError(
            f"edge {channel.edge} from task {channel.source} to task {channel.target}: {what}. A function in front of it changed its "
            f"columns or their types between batches; declare output_schema=. Got: {_line(batch.schema)}; expected: {_line(self.schema)}"
        )


def _line(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)

"""What every record is: frozen, complete, and the same after a trip through JSON."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of every record that is stored as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

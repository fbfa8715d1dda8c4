"""fgunlearn."""
from fgunlearn import ops

from ...errors import AmdmError
from .bench import main

try:
    raise SystemExit(main())
except AmdmError as error:
    raise SystemExit(str(error)) from error

"""The one definition of AMDM's settings: panel, infotext, X/Y/Z axes and API schema derive from it."""

from .settings import AUTO, MAX_SLOTS, AdapterSettings, CoModel, Settings, flat, full_name, infotext_label
from .spec import (
    MAIN_CHECKPOINT,
    NO_ADAPTER,
    NO_CHECKPOINT,
    AdapterSpec,
    BoxesSpec,
    CheckpointSpec,
    LayoutSpec,
    ListedSpec,
    Part,
    PictureSpec,
    SettingsError,
    Spec,
    SwitchSpec,
    WideNumberSpec,
    WordSpec,
    named,
    of_kind,
    only,
    setting,
    specs,
)

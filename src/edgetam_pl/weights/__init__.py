"""Checkpoints: read in any layout that people have, compared strictly with the model, written with a card."""

from edgetam_pl.weights.cards import CARD as CARD
from edgetam_pl.weights.loading import PARTS as PARTS
from edgetam_pl.weights.loading import load_into as load_into
from edgetam_pl.weights.loading import load_parts as load_parts
from edgetam_pl.weights.loading import save_official as save_official
from edgetam_pl.weights.loading import save_ours as save_ours
from edgetam_pl.weights.loading import write as write
from edgetam_pl.weights.names import from_huggingface as from_huggingface
from edgetam_pl.weights.names import official_name as official_name
from edgetam_pl.weights.names import official_of_huggingface as official_of_huggingface
from edgetam_pl.weights.names import seems_to_be as seems_to_be
from edgetam_pl.weights.names import to_huggingface as to_huggingface
from edgetam_pl.weights.reading import Contents as Contents
from edgetam_pl.weights.reading import contents as contents
from edgetam_pl.weights.reading import load_file as load_file
from edgetam_pl.weights.reading import recorded_config as recorded_config
from edgetam_pl.weights.trunks import load_trunk as load_trunk

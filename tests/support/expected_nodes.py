"""The nodes' ids and inputs: public, never renamed, and inputs only ever appended."""

INPUTS = {
    "LoadSAE": ["sae_name", "location", "stream", "architecture"],
    "SAEFeature": ["feature", "strength", "features"],
    "TopActivatingFeatures": (
        "model sae positive latent_image seed steps count rank_by location stream baseline mask save_statistics".split()
    ),
    "FluxActivationSteer": [
        *"model sae features method strength unit location stream start_percent end_percent apply_to".split(),
        *"mask replaces".split(),
    ],
    "InspectSAE": "sae location stream seed steps model positive latent_image".split(),
    "ExportSAE": ["sae", "target", "dtype", "folder_name"],
    "LoadShapesDemo": [],
    "ShapesPrompt": ["text"],
}
OUTPUTS = {
    "LoadSAE": ["SAE"],
    "SAEFeature": ["SAE_FEATURES"],
    "TopActivatingFeatures": ["SAE_FEATURES", "STRING", "IMAGE"],
    "FluxActivationSteer": ["MODEL"],
    "InspectSAE": ["STRING"],
    "ExportSAE": ["STRING"],
    "LoadShapesDemo": ["MODEL", "VAE", "SAE", "SAE", "SAE"],
    "ShapesPrompt": ["CONDITIONING"],
}
NODE_IDS = set(INPUTS)

"""The nodes' ids and inputs: public, never renamed, and inputs only ever appended."""

INPUTS = {
    "LoadSAE": ["sae_name", "location", "stream", "architecture"],
    "SAEFeature": ["feature", "strength", "features"],
    "FeatureMixer": ["sae", "mix", "features"],
    "TopActivatingFeatures": (
        "model sae positive latent_image seed steps count rank_by location stream baseline mask save_statistics".split()
    ),
    "FluxActivationSteer": [
        *"model sae features method strength unit location stream start_percent end_percent apply_to".split(),
        *"mask replaces".split(),
    ],
    "FeatureHeatmap": ("model sae features positive image latent percent steps threshold seed location stream".split()),
    "SteeringSweep": [
        *"model vae sae features method unit strengths controls positive negative latent_image seed steps cfg".split(),
        *"sampler_name scheduler denoise location stream".split(),
    ],
    "LabelFeatures": "model clip sae latent_image words contexts threshold seed steps location stream".split(),
    "CalibrateStrength": (
        "model sae features positive latent_image seed steps method location stream replaces save".split()
    ),
    "SaveRecipe": [
        *"sae features method strength unit location stream start_percent end_percent apply_to name note".split(),
        "replaces",
    ],
    "LoadRecipe": ["model", "recipe", "strength", "sae", "mask"],
    "InspectSAE": "sae location stream seed steps model positive latent_image".split(),
    "ExportSAE": ["sae", "target", "dtype", "folder_name"],
    "TopEmbedFeatures": "embed sae count rank_by baseline target tokens".split(),
    "ClipEmbedSteer": "embed sae features method strength unit target tokens clip text replaces".split(),
    "BlendEmbedFeatures": "embed source sae features amount target tokens".split(),
    "LabelEmbedFeatures": "sae encoder words contexts threshold".split(),
    "LoadKandinsky22": ["prior", "decoder", "dtype"],
    "KandinskyPrior": "prior text negative_text steps guidance seed".split(),
    "KandinskyEncodeImage": ["prior", "image"],
    "KandinskyDecode": [
        *"decoder embed negative width height steps guidance seed".split(),
        *"steered start_percent end_percent".split(),
    ],
    "LoadShapesDemo": [],
    "LoadShapesKandinsky": [],
    "ShapesPrompt": ["text"],
}
OUTPUTS = {
    "LoadSAE": ["SAE"],
    "SAEFeature": ["SAE_FEATURES"],
    "FeatureMixer": ["SAE_FEATURES"],
    "TopActivatingFeatures": ["SAE_FEATURES", "STRING", "IMAGE"],
    "FluxActivationSteer": ["MODEL"],
    "FeatureHeatmap": ["IMAGE", "MASK", "STRING"],
    "SteeringSweep": ["IMAGE"],
    "LabelFeatures": ["STRING"],
    "CalibrateStrength": ["SAE_FEATURES", "STRING"],
    "SaveRecipe": ["STRING"],
    "LoadRecipe": ["MODEL", "SAE_FEATURES", "STRING"],
    "InspectSAE": ["STRING"],
    "ExportSAE": ["STRING"],
    "TopEmbedFeatures": ["SAE_FEATURES", "STRING", "IMAGE"],
    "ClipEmbedSteer": ["COMFY_MATCHTYPE_V3"],
    "BlendEmbedFeatures": ["COMFY_MATCHTYPE_V3"],
    "LabelEmbedFeatures": ["STRING"],
    "LoadKandinsky22": ["KANDINSKY_PRIOR", "KANDINSKY_DECODER"],
    "KandinskyPrior": ["CLIP_VISION_OUTPUT", "CLIP_VISION_OUTPUT"],
    "KandinskyEncodeImage": ["CLIP_VISION_OUTPUT", "CLIP_VISION_OUTPUT"],
    "KandinskyDecode": ["IMAGE"],
    "LoadShapesDemo": ["MODEL", "VAE", "SAE", "SAE", "SAE", "CLIP"],
    "LoadShapesKandinsky": ["KANDINSKY_PRIOR", "KANDINSKY_DECODER", "SAE"],
    "ShapesPrompt": ["CONDITIONING"],
}
NODE_IDS = set(INPUTS)

"""The nodes' ids and inputs: public, never renamed, and inputs only ever appended."""

INPUTS = {
    "LoadSAE": ["sae_name", "location", "stream", "architecture"],
    "SAESet": ["sae_1", "sae_2", "name", *(f"sae_{number}" for number in range(3, 9))],
    "ConceptSteer": [
        *"model clip wanted instead_of strength sae latent_image mask seed steps count rank_by location".split(),
        *"stream start_percent end_percent apply_to contrast_by".split(),
    ],
    "ContrastDirection": [
        *"model latent_image seed seeds steps location stream positive negative clip positive_texts".split(),
        *"negative_texts tap contrast_by".split(),
    ],
    "ContrastPictures": [
        *"model vae positive_pictures negative_pictures prompt seed seeds levels location stream".split(),
    ],
    "SaveDirections": ["sae", "name", "format"],
    "SAEFeature": ["feature", "strength", "features"],
    "FeatureMixer": ["sae", "mix", "features"],
    "FeatureBrowser": ["sae"],
    "TopActivatingFeatures": [
        *"model sae positive latent_image seed steps count rank_by location stream baseline mask".split(),
        *"save_statistics candidates gallery".split(),
    ],
    "FluxActivationSteer": [
        *"model sae method strength unit location stream start_percent end_percent apply_to".split(),
        *"features mask replaces where_active active_above keep_norm".split(),
    ],
    "FeatureHeatmap": [
        *"model sae features positive image latent percent steps threshold seed location stream".split(),
        *"clip text".split(),
    ],
    "SteeringSweep": [
        *"model vae sae features method unit strengths controls positive negative latent_image seed steps cfg".split(),
        *"sampler_name scheduler denoise location stream replaces".split(),
    ],
    "BeforeAndAfter": ["before", "after"],
    "PaintRegion": ["image", "strokes"],
    "LabelFeatures": (
        "model clip sae latent_image words contexts threshold seed steps location stream save gallery".split()
    ),
    "CalibrateStrength": (
        "model sae features positive latent_image seed steps method location stream replaces save".split()
    ),
    "SaveRecipe": [
        *"method strength unit location stream start_percent end_percent apply_to name note".split(),
        *"sae features replaces model overwrite".split(),
    ],
    "LoadRecipe": ["model", "recipe", "strength", "sae", "mask", "saved"],
    "InspectSAE": "sae location stream seed steps model positive latent_image".split(),
    "InspectModel": ["model"],
    "TrainSAE": [
        *"model clip latent_image prompts location stream preset name".split(),
        *"d_sae k architecture tokens steps sampling_steps seed shards rate".split(),
    ],
    "CollectActivations": "model clip latent_image prompts sites tokens name sampling_steps seed".split(),
    "TrainEmbedSAE": "encoder folder texts name d_sae k architecture steps seed rate".split(),
    "EvaluateSAE": (
        "sae model clip latent_image prompts tokens tried_features sampling_steps seed location stream".split()
    ),
    "ExportSAE": ["sae", "target", "dtype", "folder_name"],
    "TopEmbedFeatures": "embed sae count rank_by baseline target tokens tap".split(),
    "ClipEmbedSteer": "embed sae method strength unit features target tokens clip text replaces tap".split(),
    "BlendEmbedFeatures": "embed source sae features amount target tokens tap".split(),
    "LabelEmbedFeatures": "sae encoder words contexts threshold save tap".split(),
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
    "SAESet": ["SAE"],
    "ConceptSteer": ["MODEL", "SAE_FEATURES", "SAE_FEATURES", "SAE"],
    "ContrastDirection": ["SAE", "SAE_FEATURES", "SAE_FEATURES", "STRING"],
    "ContrastPictures": ["SAE", "SAE_FEATURES", "SAE_FEATURES", "STRING"],
    "SaveDirections": ["STRING"],
    "SAEFeature": ["SAE_FEATURES"],
    "FeatureMixer": ["SAE_FEATURES"],
    "FeatureBrowser": [],
    "TopActivatingFeatures": ["SAE_FEATURES", "STRING", "IMAGE"],
    "FluxActivationSteer": ["MODEL"],
    "FeatureHeatmap": ["IMAGE", "MASK", "STRING"],
    "SteeringSweep": ["IMAGE"],
    "BeforeAndAfter": [],
    "PaintRegion": ["MASK"],
    "LabelFeatures": ["STRING"],
    "CalibrateStrength": ["SAE_FEATURES", "STRING"],
    "SaveRecipe": ["STRING"],
    "LoadRecipe": ["MODEL", "SAE_FEATURES", "STRING"],
    "InspectSAE": ["STRING"],
    "InspectModel": ["STRING"],
    "TrainSAE": ["SAE", "STRING"],
    "CollectActivations": ["SAE_SHARDS", "STRING"],
    "TrainEmbedSAE": ["SAE", "STRING"],
    "EvaluateSAE": ["STRING", "IMAGE"],
    "ExportSAE": ["STRING"],
    "TopEmbedFeatures": ["SAE_FEATURES", "STRING", "IMAGE"],
    "ClipEmbedSteer": ["COMFY_MATCHTYPE_V3"],
    "BlendEmbedFeatures": ["COMFY_MATCHTYPE_V3"],
    "LabelEmbedFeatures": ["STRING"],
    "LoadKandinsky22": ["KANDINSKY_PRIOR", "KANDINSKY_DECODER"],
    "KandinskyPrior": ["CLIP_VISION_OUTPUT", "CLIP_VISION_OUTPUT"],
    "KandinskyEncodeImage": ["CLIP_VISION_OUTPUT", "CLIP_VISION_OUTPUT"],
    "KandinskyDecode": ["IMAGE"],
    "LoadShapesDemo": ["MODEL", "VAE", "SAE", "SAE", "SAE", "CLIP", "SAE", "LATENT", "SAE"],
    "LoadShapesKandinsky": ["KANDINSKY_PRIOR", "KANDINSKY_DECODER", "SAE"],
    "ShapesPrompt": ["CONDITIONING"],
}
NODE_IDS = set(INPUTS)

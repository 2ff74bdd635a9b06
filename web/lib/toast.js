// Short answers at the corner of the window, where core shows its own.
import { app } from "../../../scripts/app.js";

const SHOWN = { success: 3000, warn: 8000 }; // milliseconds

export function toast(severity, detail) {
  app.extensionManager.toast.add({ severity, summary: "SAE Steering", detail, life: SHOWN[severity] });
}

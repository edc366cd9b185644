//! `gpus` and reservations of devices: which devices of the Container Device Interface they mean here.

use crate::{
    engine::{EngineError, ErrorKind},
    model::DeviceRequest,
    runtime,
};

/// Kinds that a request for the capability `gpu` may mean, the usual ones first.
const GPUS: [&str; 3] = ["nvidia.com/gpu", "amd.com/gpu", "intel.com/gpu"];

/// The full names of the devices that a request means.
///
/// # Errors
/// Nothing here describes such devices, or not that many.
pub(super) fn requested(request: &DeviceRequest) -> Result<Vec<String>, EngineError> {
    let DeviceRequest { driver, count, device_ids, capabilities, options: _ } = request;
    if driver.as_deref() == Some("cdi") {
        return Ok(device_ids.clone());
    }
    let kinds: Vec<&str> = match driver.as_deref() {
        None => GPUS.to_vec(),
        Some(vendor) => GPUS.into_iter().filter(|kind| kind.starts_with(&format!("{vendor}."))).collect(),
    };
    let is_gpu = capabilities.iter().any(|capability| capability == "gpu");
    let described = if is_gpu { runtime::described_devices(&kinds) } else { None };
    let Some((kind, names)) = described else {
        let driver = driver.as_deref().unwrap_or_default();
        return Err(EngineError::new(
            ErrorKind::Unsupported,
            format!("no device driver `{driver}` with the capabilities {} is here", capabilities.join(", ")),
        )
        .help("devices are taken from the JSON descriptions in /etc/cdi and /var/run/cdi")
        .help("for NVIDIA: `nvidia-ctk cdi generate --format=json --output=/etc/cdi/nvidia.json`"));
    };
    let named = |name: &String| format!("{kind}={name}");
    if !device_ids.is_empty() {
        return Ok(device_ids.iter().map(named).collect());
    }
    if *count < 0 && names.iter().any(|name| name == "all") {
        return Ok(vec![format!("{kind}=all")]);
    }
    // Each device is described by its number, and often by its serial number as well.
    let numbered: Vec<&String> = names.iter().filter(|name| name.parse::<u32>().is_ok()).collect();
    let wanted = usize::try_from(*count).unwrap_or(numbered.len());
    if wanted > numbered.len() {
        return Err(EngineError::new(
            ErrorKind::Exhausted,
            format!("{wanted} devices of {kind} are asked for, and {} are here", numbered.len()),
        ));
    }
    Ok(numbered.into_iter().take(wanted).map(named).collect())
}

//! What `logging:` asks for, as the runtime keeps it.

use crate::{
    engine::{EngineError, ErrorKind},
    model::Logging,
    runtime::LogConfig,
};

/// Of what is kept in memory for those who watch live, where nothing is kept otherwise.
const LIVE: LogConfig = LogConfig { kept: false, max_size: 1 << 20, max_files: 2 };
/// More than one file of this size is asked for by nobody who can read it again.
const SMALLEST: u64 = 4 << 10;

/// `json-file` and `local` are kept in one form of our own, and are rotated in either case; what they
/// leave open is bounded at 5 files of 20 MiB.
///
/// # Errors
/// Another driver, an option that is unknown or has no meaning.
pub(super) fn config(logging: &Logging, service: &str) -> Result<LogConfig, EngineError> {
    let path = format!("services.{service}.logging");
    let refuse =
        |kind, message: String, at: &str| Err(EngineError::new(kind, message).at(format!("{path}{at}")));
    match logging.driver.as_deref() {
        None | Some("" | "json-file" | "local") => {}
        Some("none") => return Ok(LIVE),
        Some(driver) => {
            let message = format!("the embedded engine has no logging driver `{driver}`");
            let told = EngineError::new(ErrorKind::Unsupported, message).at(format!("{path}.driver"));
            return Err(told
                .help("it has `json-file`, `local` and `none`; `ficelle logs -f` can feed another program"));
        }
    }
    let mut config = LogConfig::default();
    for (name, value) in &logging.options {
        let at = format!(".options.{name}");
        match name.as_str() {
            "max-size" => match size(value) {
                Some(size) => config.max_size = size.max(SMALLEST),
                None => {
                    return refuse(ErrorKind::Invalid, format!("`{value}` is no size such as `10m`"), &at);
                }
            },
            "max-file" => match value.parse() {
                Ok(files @ 1..) => config.max_files = files,
                _ => return refuse(ErrorKind::Invalid, format!("`{value}` is no number of files"), &at),
            },
            // The loader has warned of those.
            form if Logging::FORM.contains(&form) => {}
            _ => {
                let message = format!("the logging driver has no option `{name}`");
                return refuse(ErrorKind::Invalid, message, &at);
            }
        }
    }
    Ok(config)
}

/// `-1` is without end, as Docker's default.
fn size(text: &str) -> Option<u64> {
    if text == "-1" {
        return Some(u64::MAX);
    }
    let lower = text.to_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower.get(digits.len()..)?.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_of(driver: &str, options: &[(&str, &str)]) -> Result<LogConfig, String> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let driver = Some(driver.to_owned()).filter(|driver| !driver.is_empty());
        config(&Logging { driver, options }, "web")
            .map_err(|error| format!("{}: {error}", error.path.clone().unwrap_or_default()))
    }

    #[test]
    fn logs_are_bounded_unless_asked_otherwise() {
        assert_eq!(config_of("", &[]), Ok(LogConfig::default()));
        let small = config_of("json-file", &[("max-size", "10k"), ("max-file", "3")]).unwrap();
        assert_eq!((small.max_size, small.max_files), (10 << 10, 3));
        assert_eq!(config_of("local", &[("max-size", "-1")]).unwrap().max_size, u64::MAX);
        assert!(!config_of("none", &[]).unwrap().kept);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        for (driver, options, path) in [
            ("syslog", vec![], "services.web.logging.driver"),
            ("json-file", vec![("max-size", "big")], "services.web.logging.options.max-size"),
            ("json-file", vec![("max-file", "0")], "services.web.logging.options.max-file"),
            ("local", vec![("max-sise", "1m")], "services.web.logging.options.max-sise"),
        ] {
            let told = config_of(driver, &options).unwrap_err();
            assert!(told.starts_with(path), "{told}");
        }
    }
}

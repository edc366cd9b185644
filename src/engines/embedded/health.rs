//! The health check of a container: that of its service, over that of its image.

use std::time::Duration;

use crate::{
    image::{DockerConfig, ImageHealthcheck},
    model::{HealthTest, Healthcheck},
    runtime::HealthConfig,
};

/// `None` when nothing is checked. Defaults are those of Docker.
pub(super) fn effective(asked: Option<&Healthcheck>, image: &DockerConfig) -> Option<HealthConfig> {
    let inherited = image.healthcheck.as_ref();
    let args = match asked.and_then(|asked| asked.test.as_ref()) {
        Some(HealthTest::Disabled) => return None,
        Some(HealthTest::Command(args)) => args.clone(),
        Some(HealthTest::Shell(line)) => in_shell(line, image),
        None => of_image(inherited?, image)?,
    };
    let time = |asked: Option<Duration>, inherited: Option<i64>, default: Duration| {
        let inherited = inherited.and_then(|nanos| u64::try_from(nanos).ok()).filter(|nanos| *nanos > 0);
        asked.or(inherited.map(Duration::from_nanos)).unwrap_or(default)
    };
    let (a, i) = (asked, inherited);
    Some(HealthConfig {
        args,
        interval: time(a.and_then(|a| a.interval), i.map(|i| i.interval), Duration::from_secs(30)),
        timeout: time(a.and_then(|a| a.timeout), i.map(|i| i.timeout), Duration::from_secs(30)),
        retries: a
            .and_then(|a| a.retries)
            .or_else(|| i.and_then(|i| u32::try_from(i.retries).ok()).filter(|retries| *retries > 0))
            .unwrap_or(3),
        start_period: time(a.and_then(|a| a.start_period), i.map(|i| i.start_period), Duration::ZERO),
        start_interval: time(
            a.and_then(|a| a.start_interval),
            i.map(|i| i.start_interval),
            Duration::from_secs(5),
        ),
    })
}

fn of_image(check: &ImageHealthcheck, image: &DockerConfig) -> Option<Vec<String>> {
    match check.test.split_first()? {
        (form, args) if form == "CMD" && !args.is_empty() => Some(args.to_vec()),
        (form, args) if form == "CMD-SHELL" => args.first().map(|line| in_shell(line, image)),
        _ => None,
    }
}

fn in_shell(line: &str, image: &DockerConfig) -> Vec<String> {
    let shell = image.shell.as_ref().filter(|shell| !shell.is_empty());
    let mut args = shell.cloned().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
    args.push(line.to_owned());
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(test: &[&str]) -> DockerConfig {
        let test = test.iter().map(|&word| word.to_owned()).collect();
        let healthcheck = ImageHealthcheck { test, interval: 5_000_000_000, ..ImageHealthcheck::default() };
        DockerConfig { healthcheck: Some(healthcheck), ..DockerConfig::default() }
    }

    fn asked(test: Option<HealthTest>) -> Healthcheck {
        Healthcheck {
            test,
            interval: None,
            timeout: Some(Duration::from_secs(1)),
            retries: None,
            start_period: None,
            start_interval: None,
        }
    }

    #[test]
    fn an_image_checks_itself_unless_the_service_says_otherwise() {
        let image = image(&["CMD-SHELL", "true"]);
        let check = effective(None, &image).unwrap();
        assert_eq!(check.args, ["/bin/sh", "-c", "true"]);
        assert_eq!(check.interval, Duration::from_secs(5));
        assert_eq!(check.retries, 3);
        assert!(effective(Some(&asked(Some(HealthTest::Disabled))), &image).is_none());
    }

    #[test]
    fn a_service_can_change_the_times_alone() {
        let check = effective(Some(&asked(None)), &image(&["CMD", "probe"])).unwrap();
        assert_eq!(check.args, ["probe"]);
        assert_eq!(check.timeout, Duration::from_secs(1));
    }

    #[test]
    fn without_a_test_nothing_is_checked() {
        assert!(effective(Some(&asked(None)), &DockerConfig::default()).is_none());
        assert!(effective(None, &image(&["NONE"])).is_none());
    }
}

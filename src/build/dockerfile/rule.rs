//! The rules of build checks, by the names and with the texts that BuildKit gives them.

use super::Span;

/// What a check found, at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    pub rule: Rule,
    pub span: Span,
    pub message: String,
}

impl Lint {
    pub fn new(rule: Rule, span: Span, message: impl Into<String>) -> Self {
        Self { rule, span, message: message.into() }
    }
}

macro_rules! rules {
    ($($name:ident $description:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule {
            $($name,)*
        }

        impl Rule {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            #[must_use]
            pub fn description(self) -> &'static str {
                match self {
                    $(Self::$name => $description,)*
                }
            }
        }
    };
}

rules! {
    StageNameCasing "Stage names should be lowercase",
    FromAsCasing "The 'as' keyword should match the case of the 'from' keyword",
    NoEmptyContinuation "Empty continuation lines will become errors in a future release",
    ConsistentInstructionCasing
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    DuplicateStageName "Stage names should be unique",
    ReservedStageName "Reserved words should not be used as stage names",
    JSONArgsRecommended
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    MaintainerDeprecated
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    UndefinedArgInFrom "FROM command must use declared ARGs",
    WorkdirRelativePath
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    UndefinedVar "Variables should be defined before their use",
    MultipleInstructionsDisallowed
        "Multiple instructions of the same type should not be used in the same stage",
    LegacyKeyValueFormat "Legacy key/value format with whitespace separator should not be used",
    InvalidBaseImagePlatform "Base image platform does not match expected target platform",
    RedundantTargetPlatform
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    SecretsUsedInArgOrEnv "Sensitive data should not be used in the ARG or ENV commands",
    InvalidDefaultArgInFrom
        "Default value for global ARG results in an empty or invalid base image name",
    FromPlatformFlagConstDisallowed "FROM --platform flag should not use a constant value",
    CopyIgnoredFile "Attempting to Copy file that is excluded by .dockerignore",
    InvalidDefinitionDescription
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    ExposeProtoCasing "Protocol in EXPOSE instruction should be lowercase",
    ExposeInvalidFormat
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
}

impl Rule {
    /// Only looked at when it is asked for.
    #[must_use]
    pub fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }

    /// `https://docs.docker.com/go/dockerfile/rule/json-args-recommended/`
    #[must_use]
    pub fn url(self) -> String {
        let mut words = String::new();
        let name: Vec<char> = self.name().chars().collect();
        for (at, c) in name.iter().enumerate() {
            let next_is_small = name.get(at + 1).is_some_and(char::is_ascii_lowercase);
            let after_small = at > 0 && name[at - 1].is_ascii_lowercase();
            if at > 0 && c.is_ascii_uppercase() && (after_small || next_is_small) {
                words.push('-');
            }
            words.push(c.to_ascii_lowercase());
        }
        format!("https://docs.docker.com/go/dockerfile/rule/{words}/")
    }
}

/// `# check=skip=A,B;error=true;experimental=all`, or the build argument `BUILDKIT_DOCKERFILE_CHECK`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    skip: Vec<String>,
    experimental: Vec<String>,
    /// What is found makes the build fail.
    pub error: bool,
}

impl CheckOptions {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for field in text.split(';').map(str::trim).filter(|field| !field.is_empty()) {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            let names = || value.split(',').map(|name| name.trim().to_owned()).collect();
            match key.trim() {
                "skip" => options.skip = names(),
                "experimental" => options.experimental = names(),
                "error" => {
                    options.error = value
                        .trim()
                        .parse()
                        .map_err(|_| format!("invalid check option \"{field}\": error is true or false"))?;
                }
                other => {
                    return Err(format!("invalid check option {other:?}: it is skip, error or experimental"));
                }
            }
        }
        Ok(options)
    }

    #[must_use]
    pub fn wants(&self, rule: Rule) -> bool {
        let names =
            |list: &[String]| list.iter().any(|name| name == "all" || name.eq_ignore_ascii_case(rule.name()));
        if rule.is_experimental() { names(&self.experimental) } else { !names(&self.skip) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_names_in_small_words() {
        let word = |rule: Rule| rule.url().rsplit('/').nth(1).unwrap().to_owned();
        let mut words: Vec<String> = Rule::ALL.iter().map(|rule| word(*rule)).collect();
        words.sort();
        // The pages of docs.docker.com/reference/build-checks.
        let pages = [
            "consistent-instruction-casing",
            "copy-ignored-file",
            "duplicate-stage-name",
            "expose-invalid-format",
            "expose-proto-casing",
            "from-as-casing",
            "from-platform-flag-const-disallowed",
            "invalid-base-image-platform",
            "invalid-default-arg-in-from",
            "invalid-definition-description",
            "json-args-recommended",
            "legacy-key-value-format",
            "maintainer-deprecated",
            "multiple-instructions-disallowed",
            "no-empty-continuation",
            "redundant-target-platform",
            "reserved-stage-name",
            "secrets-used-in-arg-or-env",
            "stage-name-casing",
            "undefined-arg-in-from",
            "undefined-var",
            "workdir-relative-path",
        ];
        assert_eq!(words, pages);
    }

    #[test]
    fn options_choose_among_the_rules() {
        let options = CheckOptions::parse("skip=FromAsCasing, undefinedvar;error=true").unwrap();
        assert!(options.error && !options.wants(Rule::FromAsCasing) && !options.wants(Rule::UndefinedVar));
        assert!(options.wants(Rule::StageNameCasing) && !options.wants(Rule::InvalidDefinitionDescription));
        assert!(!CheckOptions::parse("skip=all").unwrap().wants(Rule::StageNameCasing));
        assert!(CheckOptions::parse("experimental=all").unwrap().wants(Rule::InvalidDefinitionDescription));
        assert!(CheckOptions::parse("skip=a;x=y").is_err() && CheckOptions::parse("error=perhaps").is_err());
    }
}

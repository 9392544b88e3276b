//! What `cargo xtask fuzz` was asked for.

use anyhow::{Context as _, Result, bail};

/// Enough for a target to leave its seeds behind.
const SECONDS: u32 = 300;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    /// Targets; all if empty.
    pub(super) names: Vec<String>,
    /// Of each target.
    pub(super) seconds: u32,
    /// Targets at a time.
    pub(super) jobs: usize,
}

impl Arguments {
    pub(super) fn parse(arguments: &[String]) -> Result<Self> {
        let mut parsed = Self { names: Vec::new(), seconds: SECONDS, jobs: 1 };
        let mut left = arguments.iter();
        while let Some(argument) = left.next() {
            let mut number =
                || left.next().and_then(|text| text.parse().ok()).filter(|number| *number > 0_u32);
            match argument.as_str() {
                "--seconds" => parsed.seconds = number().context("--seconds: expected a number from 1")?,
                "--jobs" => {
                    parsed.jobs = usize::try_from(number().context("--jobs: expected a number from 1")?)?;
                }
                flag if flag.starts_with('-') => bail!("{flag}: expected --seconds N, --jobs N or targets"),
                name => parsed.names.push(name.to_owned()),
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Arguments> {
        Arguments::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn targets_and_numbers_come_in_any_order() {
        let names = vec!["frame".to_owned(), "tcp".to_owned()];
        assert_eq!(parse("").unwrap(), Arguments { names: Vec::new(), seconds: 300, jobs: 1 });
        assert_eq!(
            parse("frame --seconds 20 tcp --jobs 2").unwrap(),
            Arguments { names, seconds: 20, jobs: 2 }
        );
    }

    #[test]
    fn what_is_no_number_and_no_flag_is_refused() {
        for text in ["--seconds", "--seconds x", "--jobs 0", "--fast", "-s 3"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

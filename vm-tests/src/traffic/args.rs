//! Options of the traffic tool: `--name value`, or `--name` alone. Unknown ones fail, by name.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;

/// Options not yet asked for.
#[derive(Debug)]
pub(super) struct Args {
    options: Vec<(String, Option<String>)>,
}

impl Args {
    pub(super) fn parse(arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Vec::<(String, Option<String>)>::new();
        for argument in arguments {
            if let Some(name) = argument.strip_prefix("--") {
                options.push((name.to_owned(), None));
            } else {
                let (name, value) =
                    options.last_mut().with_context(|| format!("{argument:?} follows no option"))?;
                anyhow::ensure!(value.is_none(), "--{name} takes one value");
                *value = Some(argument);
            }
        }
        Ok(Self { options })
    }

    /// Whether `--name` was given.
    pub(super) fn flag(&mut self, name: &str) -> anyhow::Result<bool> {
        let Some(at) = self.options.iter().position(|(option, _)| option == name) else { return Ok(false) };
        let (_, value) = self.options.remove(at);
        anyhow::ensure!(value.is_none(), "--{name} takes no value");
        Ok(true)
    }

    /// Every value of `--name`.
    pub(super) fn all(&mut self, name: &str) -> anyhow::Result<Vec<String>> {
        let (taken, rest) =
            std::mem::take(&mut self.options).into_iter().partition(|(option, _)| option == name);
        self.options = rest;
        let taken: Vec<(String, Option<String>)> = taken;
        taken.into_iter().map(|(_, value)| value.with_context(|| format!("--{name} needs a value"))).collect()
    }

    pub(super) fn optional<T: FromStr>(&mut self, name: &str) -> anyhow::Result<Option<T>> {
        let Some(value) = self.all(name)?.pop() else { return Ok(None) };
        let parsed = value.parse().ok().with_context(|| format!("--{name}: {value:?} is not understood"))?;
        Ok(Some(parsed))
    }

    pub(super) fn or<T: FromStr>(&mut self, name: &str, default: T) -> anyhow::Result<T> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    pub(super) fn required<T: FromStr>(&mut self, name: &str) -> anyhow::Result<T> {
        self.optional(name)?.with_context(|| format!("--{name} is missing"))
    }

    /// `--seconds`, a fraction or not, at most ten minutes.
    pub(super) fn seconds(&mut self, default: f64) -> anyhow::Result<Duration> {
        let seconds = self.or("seconds", default)?;
        anyhow::ensure!((0.01..=600.0).contains(&seconds), "--seconds: {seconds} is not in 0.01 to 600");
        Ok(Duration::from_secs_f64(seconds))
    }

    /// A number with an optional `k`, `M` or `G`.
    pub(super) fn scaled(&mut self, name: &str, default: u64) -> anyhow::Result<u64> {
        let Some(text) = self.optional::<String>(name)? else { return Ok(default) };
        let (digits, scale) = match text.chars().last() {
            Some('k') => (text.trim_end_matches('k'), 1_000),
            Some('M') => (text.trim_end_matches('M'), 1_000_000),
            Some('G') => (text.trim_end_matches('G'), 1_000_000_000),
            _ => (text.as_str(), 1),
        };
        let number: u64 = digits.parse().with_context(|| format!("--{name}: {text:?} is not a number"))?;
        number.checked_mul(scale).with_context(|| format!("--{name}: {text:?} is too large"))
    }

    /// Fails if an option is left that nobody asked for.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        match self.options.first() {
            Some((name, _)) => anyhow::bail!("unknown option --{name}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Args;

    fn args(line: &str) -> Args {
        Args::parse(line.split_whitespace().map(str::to_owned)).unwrap()
    }

    #[test]
    fn values_flags_and_scales_are_understood() {
        let mut args = args("--rate 2G --verify --map a --map b");
        assert_eq!(args.scaled("rate", 0).unwrap(), 2_000_000_000);
        assert!(args.flag("verify").unwrap());
        assert_eq!(args.all("map").unwrap(), ["a", "b"]);
        args.finish().unwrap();
    }

    #[test]
    fn what_nobody_asked_for_is_named() {
        let error = args("--colour blue").finish().unwrap_err();
        assert_eq!(error.to_string(), "unknown option --colour");
        assert!(args("--seconds 9999").seconds(1.0).is_err());
    }
}

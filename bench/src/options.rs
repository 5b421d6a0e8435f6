//! Variables of the environment.

use std::str::FromStr;

use anyhow::{Context as _, Result};

/// The variable `name`, or `default` if it is not set or empty.
pub fn variable<T>(name: &str, default: T) -> Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => {
            let value = text.parse();
            value.with_context(|| format!("{name}={text}"))
        }
        Ok(_) | Err(_) => Ok(default),
    }
}

/// How often everything is measured: `ROUNDS`, 5 unless told.
pub fn rounds() -> Result<u32> {
    Ok(variable("ROUNDS", 5)?.max(1))
}

/// Which rows are wanted: those whose names contain one of the words of `ROWS`, which are
/// separated by commas; all if it is not set.
#[derive(Debug, Clone)]
pub struct Rows(Vec<String>);

impl Rows {
    /// Reads `ROWS`.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::parse(&std::env::var("ROWS").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let words = text.split(',').map(|word| word.trim().to_lowercase());
        Self(words.filter(|word| !word.is_empty()).collect())
    }

    /// Whether this row is wanted.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.0.is_empty() || self.0.iter().any(|word| name.contains(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_parts_of_their_names() {
        let rows = Rows::parse("binding, 100 B");
        assert!(rows.wants("STUN Binding"));
        assert!(rows.wants("ChannelData 100 B, single packets"));
        assert!(!rows.wants("ChannelData 1200 B"));
        assert!(Rows::parse(" ,").wants("anything"));
    }
}

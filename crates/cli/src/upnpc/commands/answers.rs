//! What is in the answers of routers, and words of the command line.

use postern::portmap::Arguments;

use super::super::plain;

pub(super) fn text(answer: &Arguments, name: &str) -> String {
    plain(answer.get(name).unwrap_or_default())
}

/// The number at the beginning of a value, as C reads it.
pub(super) fn number(answer: &Arguments, name: &str) -> u32 {
    let text = answer.get(name).unwrap_or_default().trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    // Some count further than 32 bits.
    let number = text
        .get(..digits)
        .and_then(|digits| digits.parse::<u64>().ok());
    number.map_or(0, |number| u32::try_from(number).unwrap_or(u32::MAX))
}

pub(super) fn flag(answer: &Arguments, name: &str) -> bool {
    number(answer, name) != 0
}

pub(super) const fn yes(yes: bool) -> &'static str {
    if yes { "Yes" } else { "No" }
}

/// The protocol as gateways want it.
pub(super) fn protocol(text: &str) -> Option<&'static str> {
    ["TCP", "UDP"]
        .into_iter()
        .find(|name| name.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_far_as_they_go() {
        let answer = Arguments::default()
            .with("a", "12 s")
            .with("b", "99999999999");
        assert_eq!((number(&answer, "a"), number(&answer, "b")), (12, u32::MAX));
        assert_eq!(number(&answer, "c"), 0);
    }
}

//! Content-Disposition: under which name a browser saves what it gets (RFC 6266, RFC 8187).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The value of Content-Disposition that saves the reply as `file_name`.
///
/// Controls and path separators are dropped, and what is past 255 bytes is cut: a client that trusts the name must not
/// be led out of its folder, and a name from a query must not blow up the head. If nothing is left, the client picks a
/// name.
pub fn attachment(file_name: &str) -> String {
    let name = savable(file_name);
    if name.chars().all(|c| c == '.') {
        return "attachment".to_string();
    }
    let fallback: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let mut value = format!("attachment; filename=\"{fallback}\"");
    if fallback != name {
        // RFC 6266 §4.3: of the two, a recipient that knows filename* picks it. It comes last for those that stop
        // early.
        value.extend(["; filename*=UTF-8''"].into_iter().chain(utf8_percent_encode(&name, NOT_IN_EXT_VALUE)));
    }
    value
}

/// The most bytes that a file's name has on Linux.
const NAME_MAX: usize = 255;

/// All but the attr-char of RFC 8187 §3.2.1.
const NOT_IN_EXT_VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// The characters of `file_name` that may stand in a file's name, as many as fit.
fn savable(file_name: &str) -> String {
    let mut name = String::new();
    for c in file_name.chars().filter(|&c| !c.is_control() && !matches!(c, '/' | '\\')) {
        if name.len() + c.len_utf8() > NAME_MAX {
            break;
        }
        name.push(c);
    }
    name
}

/// Whether every client reads `c` in a quoted-string alike. Quotes would need a backslash, which some save literally,
/// and a percent sign makes some decode (RFC 6266 Appendix D).
fn is_plain(c: char) -> bool {
    matches!(c, ' '..='~') && !matches!(c, '"' | '%')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(name: &str, expected: &str) {
        assert_eq!(attachment(name), expected, "{name}");
    }

    #[test]
    fn plain_names_need_one_form() {
        check("clip.mp4", "attachment; filename=\"clip.mp4\"");
        check("a b; c=d,e'.mp4", "attachment; filename=\"a b; c=d,e'.mp4\"");
    }

    #[test]
    fn other_names_have_both_forms() {
        check("\u{e9}t\u{e9}.mp4", "attachment; filename=\"_t_.mp4\"; filename*=UTF-8''%C3%A9t%C3%A9.mp4");
        check("50% \"x\"", "attachment; filename=\"50_ _x_\"; filename*=UTF-8''50%25%20%22x%22");
        check("\u{1f3ac}'(*)", "attachment; filename=\"_'(*)\"; filename*=UTF-8''%F0%9F%8E%AC%27%28%2A%29");
    }

    #[test]
    fn controls_and_separators_go() {
        check("../../etc/passwd", "attachment; filename=\"....etcpasswd\"");
        check("a\r\nX: y\0\u{7f}\u{85}\\b", "attachment; filename=\"aX: yb\"");
        for name in ["", ".", "..", "/", "\r\n", "../.."] {
            check(name, "attachment");
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        check(&"a".repeat(300), &format!("attachment; filename=\"{}\"", "a".repeat(255)));
        let cut = attachment(&"\u{e9}".repeat(300));
        assert!(cut.ends_with(&format!("''{}", "%C3%A9".repeat(127))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_name_makes_a_field_value(name in "\\PC{0,300}|[\\x00-\\x7f]{0,40}") {
            let value = attachment(&name);
            prop_assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            prop_assert!(value.matches('"').count() <= 2 && !value.contains('\\'));
            prop_assert!(value.len() < 1100);
        }
    }
}

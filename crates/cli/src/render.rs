//! Problems for people: the code, what is wrong, where, and the next step. The only file that knows miette.

use custody_model::{Position, Problem, SourceText};
use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Report, Severity,
    ThemeCharacters, ThemeStyles,
};
use std::io::{IsTerminal, Write};

/// Writes a problem and those related to it. `texts` are what labels may point into.
pub(crate) fn render(problem: &Problem, texts: &[SourceText], to: &mut dyn Write) -> std::io::Result<()> {
    let theme = if std::io::stderr().is_terminal() {
        if std::env::var_os("NO_COLOR").is_some() {
            GraphicalTheme::unicode_nocolor()
        } else {
            GraphicalTheme::unicode()
        }
    } else {
        GraphicalTheme { characters: ThemeCharacters::ascii(), styles: ThemeStyles::none() }
    };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(120);
    for one in std::iter::once(problem).chain(&problem.related) {
        let mut text = String::new();
        let report = report(one, texts);
        if handler.render_report(&mut text, report.as_ref()).is_err() {
            text = one.to_string();
        }
        writeln!(to, "{}", plain(&text))?;
        if let Some(entry) = &one.entry {
            writeln!(to, "  recorded as entry {entry}")?;
        }
    }
    Ok(())
}

fn report(problem: &Problem, texts: &[SourceText]) -> Report {
    let mut diagnostic = MietteDiagnostic::new(problem.message.clone())
        .with_code(problem.code.to_string())
        .with_severity(Severity::Error);
    if let Some(help) = &problem.help {
        diagnostic = diagnostic.with_help(help.clone());
    }
    let source = match &problem.file {
        Some(name) => texts.iter().find(|t| t.name == *name),
        None => texts.iter().find(|t| t.path.is_none()),
    };
    let Some(source) = source else { return Report::new(diagnostic) };
    let spans: Vec<LabeledSpan> = problem
        .labels
        .iter()
        .filter_map(|l| {
            let start = offset(&source.text, l.start)?;
            let end = offset(&source.text, l.end)?.max(start + 1);
            Some(LabeledSpan::new(Some(l.text.clone()), start, end - start))
        })
        .collect();
    if spans.is_empty() {
        return Report::new(diagnostic);
    }
    Report::new(diagnostic.with_labels(spans)).with_source_code(NamedSource::new(&source.name, source.text.clone()))
}

/// Miette counts bytes, we count characters.
fn offset(text: &str, position: Position) -> Option<usize> {
    let mut start = 0;
    for _ in 1..position.line {
        start += text.get(start..)?.find('\n')? + 1;
    }
    let line = text.get(start..)?;
    let column = usize::try_from(position.column).ok()?.saturating_sub(1);
    Some(start + line.char_indices().nth(column).map_or(line.len(), |(i, _)| i))
}

/// Control characters of hostile data cannot steer a terminal. Our own colours pass.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' | '\t' => out.push(c),
            '\u{1b}' if chars.peek() == Some(&'[') && colour(chars.clone()) => out.push(c),
            c if hostile(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Whether what follows an ESC is a colour: `[`, digits and `;`, then `m`.
fn colour(rest: impl Iterator<Item = char>) -> bool {
    rest.skip(1).find(|c| !c.is_ascii_digit() && *c != ';') == Some('m')
}

/// C0, C1 and bidirectional controls.
pub(crate) fn hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// A cell or name as one line of harmless text.
pub(crate) fn cell(text: &str) -> String {
    if text.chars().any(hostile) {
        text.chars().flat_map(|c| if hostile(c) { c.escape_unicode().collect::<Vec<_>>() } else { vec![c] }).collect()
    } else {
        text.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_cells_print_as_text() {
        assert_eq!(cell("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(plain("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(plain("a\u{1b}[31mb"), "a\u{1b}[31mb");
    }

    #[test]
    fn places_count_characters() {
        assert_eq!(offset("é\nüb", Position { line: 2, column: 2 }), Some(5));
        assert_eq!(offset("a", Position { line: 3, column: 1 }), None);
    }
}

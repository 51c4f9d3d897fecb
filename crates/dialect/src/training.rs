//! `CREATE TRAINING SET`: a spine, what is looked up for each of its rows, and how the rows are split.

use crate::{
    parse::{Head, Own, Result, TRAINING_CLAUSES, twice},
    problem::code,
    reference::{self, Reference},
    statement::{FeatureItem, Key, KnownAt, Placed, Sample, Split, Statement, TrainingDef},
};
use custody_model::{Pin, Problem, WallMicros};
use sqlparser::{ast, tokenizer::Token};

impl Head<'_> {
    /// After the words `CREATE TRAINING SET`.
    pub(crate) fn training_set(&mut self) -> Result<Statement> {
        let name = self.defined(Some("training"))?;
        self.need(&["SPINE", "ENTITY"])?;
        let entity = self.simple("an entity, such as `patient`")?;
        let columns = self.columns()?;
        self.need(&["EVENT", "TIME"])?;
        let event_time = self.column()?;
        self.need(&["LABEL"])?;
        let label = self.column()?;
        self.need(&["AS"])?;
        let spine = self.query_inside()?;
        self.need(&["FEATURES"])?;
        let mut features = vec![self.feature_item()?];
        while self.eat_token(&Token::Comma) {
            features.push(self.feature_item()?);
        }
        let known_at = self.known_at()?;
        let sample = self.sample()?;
        let split = self.split()?;
        let clauses = self.clauses(&TRAINING_CLAUSES, &mut Own::default())?;
        self.end()?;
        let key = Key { entity, columns, event_time, known_time: None };
        Ok(Statement::TrainingSet(Box::new(TrainingDef {
            name,
            key,
            label,
            spine,
            features,
            known_at,
            sample,
            split,
            clauses,
        })))
    }

    /// `view.* [VERSION n]`, `view (col [AS col], …) [VERSION n]`.
    fn feature_item(&mut self) -> Result<FeatureItem> {
        let first = self.index();
        let mut parts = vec![ast::ObjectNamePart::Identifier(self.identifier("a feature view")?.0)];
        let mut all = false;
        while !all && self.eat_token(&Token::Period) {
            all = self.eat_token(&Token::Mul);
            if !all {
                parts.push(ast::ObjectNamePart::Identifier(self.identifier("a name or `*`")?.0));
            }
        }
        let place = self.since(first);
        let name = match reference::named(&ast::ObjectName(parts)) {
            Ok(reference::Named::Dataset(name)) => name,
            Ok(reference::Named::Bare(_)) | Err(_) => {
                return Err(vec![
                    Problem::new(code::NAME, "a feature is named with its view")
                        .help("write `features.x.*`, or `features.x (a, b AS c)`")
                        .label(place.label("here")),
                ]);
            }
        };
        let columns = if all { None } else { Some(self.chosen()?) };
        let pin = if self.eat(&["VERSION", "AS", "OF"]) { Pin::Version(self.whole("a version")?) } else { Pin::Newest };
        Ok(FeatureItem { reference: Reference { name, pin, start: place.start, end: place.end }, columns })
    }

    fn chosen(&mut self) -> Result<Vec<(Placed<String>, Placed<String>)>> {
        self.need_token(&Token::LParen)?;
        let mut columns: Vec<(Placed<String>, Placed<String>)> = vec![];
        loop {
            let column = self.column()?;
            let alias = if self.eat(&["AS"]) { self.column()? } else { column.clone() };
            if columns.iter().any(|(_, a)| a.value == alias.value) {
                return Err(vec![twice(&format!("column `{}`", alias.value), alias.place)]);
            }
            columns.push((column, alias));
            if !self.eat_token(&Token::Comma) {
                break;
            }
        }
        self.need_token(&Token::RParen)?;
        Ok(columns)
    }

    fn known_at(&mut self) -> Result<KnownAt> {
        if self.eat(&["KNOWN", "AT", "EVENT", "TIME"]) {
            return Ok(KnownAt::EventTime);
        }
        if self.eat(&["KNOWN", "AT", "TIMESTAMP"]) {
            let Placed { value, place } = self.text("a point in time in single quotes")?;
            return match reference::parse_timestamp(&value) {
                Some(WallMicros(at)) => Ok(KnownAt::Instant(WallMicros(at))),
                None => Err(vec![
                    Problem::new(code::DEFINITION, format!("`{value}` is not a point in time"))
                        .help("write `KNOWN AT TIMESTAMP '2026-01-31T12:00:00Z'`; without a zone it is UTC")
                        .label(place.label("here")),
                ]),
            };
        }
        if self.eat(&["IGNORING", "KNOWN", "TIME", "BECAUSE"]) {
            return Ok(KnownAt::Ignored(self.text("a reason in single quotes")?.value));
        }
        Ok(KnownAt::EventTime)
    }

    fn sample(&mut self) -> Result<Option<Sample>> {
        if !self.eat(&["SAMPLE", "BY", "HASH"]) {
            return Ok(None);
        }
        let columns = self.columns()?;
        let first = self.index();
        let take = self.whole("how many rows to keep")?;
        self.need(&["IN"])?;
        let of = self.whole("of how many")?;
        let (Ok(take), Ok(of), true) = (u32::try_from(take), u32::try_from(of), 1 <= take && take <= of) else {
            return Err(vec![
                Problem::new(code::DEFINITION, "a sample keeps some rows of as many or more")
                    .help("write `SAMPLE BY HASH (id) 1 IN 10 SEED 3`")
                    .label(self.since(first).label("here")),
            ]);
        };
        self.need(&["SEED"])?;
        Ok(Some(Sample { columns, take, of, seed: self.whole("a seed")? }))
    }

    fn split(&mut self) -> Result<Split> {
        self.need(&["SPLIT", "BY", "HASH"])?;
        let columns = self.columns()?;
        self.need(&["INTO"])?;
        let mut parts: Vec<(String, u32)> = vec![];
        loop {
            let part = self.simple("a part, such as `train`")?;
            if parts.iter().any(|(p, _)| *p == part.value) {
                return Err(vec![twice(&format!("part `{}`", part.value), part.place)]);
            }
            let place = self.here();
            let weight = u32::try_from(self.whole("a weight")?).ok().filter(|w| (1..=1_000_000).contains(w));
            let Some(weight) = weight else {
                return Err(vec![
                    Problem::new(code::DEFINITION, "a weight is from 1 to 1,000,000")
                        .help("write `INTO train 80, test 20`")
                        .label(place.label("here")),
                ]);
            };
            parts.push((part.value, weight));
            if !self.eat_token(&Token::Comma) {
                break;
            }
        }
        self.need(&["SEED"])?;
        Ok(Split { columns, parts, seed: self.whole("a seed")? })
    }

    /// A whole number.
    fn whole(&mut self, what: &str) -> Result<u64> {
        let parsed = match self.token() {
            Some(Token::Number(digits, false)) => digits.replace('_', "").parse().ok(),
            _ => None,
        };
        match parsed {
            Some(number) => {
                self.skip(1);
                Ok(number)
            }
            None => Err(vec![self.expected(&format!("{what}, a whole number"))]),
        }
    }
}

//! Problems as gRPC statuses: the code by the caller's next move, the problem itself as JSON in the details.

use custody_model::{Code, Label, Position, Problem};
use serde_json::{Value, json};
use tonic::{Code as Grpc, Status};

/// A problem as a status. The message repeats code and help, for clients that show nothing else.
pub(crate) fn status(problem: &Problem) -> Status {
    let code = match (problem.code.exit_code(), problem.code.0) {
        (_, 1900..=1999) => Grpc::Internal,
        (_, 3001) => Grpc::Unauthenticated,
        (_, 3301) => Grpc::Aborted,
        (1 | 2, _) => Grpc::InvalidArgument,
        (3, _) => Grpc::PermissionDenied,
        (4, _) => Grpc::DataLoss,
        (6, _) => Grpc::NotFound,
        (7, _) => Grpc::Unavailable,
        _ => Grpc::Unknown,
    };
    Status::with_details(code, problem.to_string(), problem_json(problem).to_string().into_bytes().into())
}

/// A request this door does not offer.
pub(crate) fn not_offered(what: &str) -> Status {
    Status::unimplemented(format!("{what} is not offered"))
}

fn problem_json(problem: &Problem) -> Value {
    json!({
        "code": problem.code.to_string(),
        "message": problem.message,
        "help": problem.help,
        "file": problem.file,
        "labels": problem.labels.iter().map(|l| json!({
            "start": [l.start.line, l.start.column], "end": [l.end.line, l.end.column], "text": l.text,
        })).collect::<Vec<_>>(),
        "entry": problem.entry.as_ref().map(ToString::to_string),
        "related": problem.related.iter().map(problem_json).collect::<Vec<_>>(),
    })
}

/// The problem that a status of ours carries; any other status as a problem of its own.
pub fn problem_of(status: &Status) -> Problem {
    let told = serde_json::from_slice::<Value>(status.details()).ok().and_then(|v| parse(&v));
    told.unwrap_or_else(|| {
        let code = match status.code() {
            Grpc::Unavailable | Grpc::DeadlineExceeded | Grpc::Cancelled | Grpc::Aborted => 7501,
            Grpc::Unauthenticated | Grpc::PermissionDenied => 3001,
            _ => 1502,
        };
        Problem::new(code, status.message().to_string())
    })
}

fn parse(value: &Value) -> Option<Problem> {
    let code = value.get("code")?.as_str()?.strip_prefix('C')?.parse().ok()?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(ToString::to_string);
    let position = |v: &Value| Some(Position { line: v.get(0)?.as_u64()?, column: v.get(1)?.as_u64()? });
    let labels = value.get("labels").and_then(Value::as_array).map(|labels| {
        labels
            .iter()
            .filter_map(|l| {
                Some(Label {
                    start: position(l.get("start")?)?,
                    end: position(l.get("end")?)?,
                    text: l.get("text")?.as_str()?.to_string(),
                })
            })
            .collect()
    });
    Some(Problem {
        code: Code(code),
        message: text("message")?,
        help: text("help"),
        labels: labels.unwrap_or_default(),
        file: text("file"),
        entry: None,
        related: value
            .get("related")
            .and_then(Value::as_array)
            .map(|r| r.iter().filter_map(parse).collect())
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_survives_the_wire() {
        let problem = Problem::new(6001, "table `a.b` not found").help("look").label(Label {
            start: Position { line: 1, column: 2 },
            end: Position { line: 1, column: 3 },
            text: "here".into(),
        });
        assert_eq!(problem_of(&status(&problem)), problem);
        assert_eq!(status(&problem).code(), Grpc::NotFound);
    }
}

//! The provider of a session whose `container.json` names one that this runner does not have:
//! every message is answered by saying so. Leaving instead would be a crash loop.

use std::io;

use super::{ErrorClass, Provider, TurnError, TurnHandle, TurnRequest};

/// See the module.
#[derive(Debug)]
pub struct Missing {
    name: String,
    sentence: String,
}

impl Missing {
    pub fn new(name: &str, known: &[&str]) -> Missing {
        let sentence = format!(
            "I cannot answer: this agent is set to the provider \"{name}\", which does not exist here. There are: {}.",
            known.join(", ")
        );
        Missing { name: name.to_owned(), sentence }
    }
}

impl Provider for Missing {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&self, _request: TurnRequest) -> io::Result<TurnHandle> {
        let error = TurnError { class: ErrorClass::InvalidRequest, sentence: self.sentence.clone() };
        super::spawn(|| (), move |port| port.fail(error))
    }
}

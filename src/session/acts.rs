//! One act on images, told to a screen like a step of a plan.

use std::{sync::Arc, time::Instant};

use tokio::sync::mpsc;

use crate::{
    apply::Event,
    engine::{
        Detail, Engine, EngineError, ImageAct, ImageAnswer, Op, Outcome, Progress, PullRequest, PushRequest,
    },
    model::PullPolicy,
    plan::{Cause, Plan, Step, StepId},
};

/// Hands on how far the act is, to where the screen is.
struct Teller(mpsc::UnboundedSender<Detail>);

impl Progress for Teller {
    fn report(&self, detail: Detail) {
        // Nobody may listen any more.
        let _ = self.0.send(detail);
    }
}

/// Carries out a pull or push of `image`; `hear` hears of it what it would hear of a project's.
pub async fn transfer(
    engine: &dyn Engine,
    act: ImageAct,
    hear: &mut (dyn FnMut(Event) + Send),
) -> Result<ImageAnswer, EngineError> {
    let Some(what) = step(&act) else {
        return engine.act_on_images(act, Arc::new(crate::engine::Silent)).await;
    };
    let (teller, mut told) = mpsc::unbounded_channel();
    let begun = Instant::now();
    let plan = Plan { steps: vec![what.clone()], ..Plan::default() };
    hear(Event::Planned { plan });
    hear(Event::Started { step: StepId(0), what: what.clone(), at: begun.elapsed() });
    let mut acting = std::pin::pin!(engine.act_on_images(act, Arc::new(Teller(teller))));
    let answer = loop {
        tokio::select! {
            answer = &mut acting => break answer,
            Some(detail) = told.recv() => hear(Event::Progress { step: StepId(0), detail }),
        }
    };
    let (step, took) = (StepId(0), begun.elapsed());
    hear(match &answer {
        Ok(_) => Event::Done { step, what, outcome: Outcome::default(), took },
        Err(error) => Event::Failed { step, what, error: error.clone(), took },
    });
    answer
}

/// The step that a screen has words for.
fn step(act: &ImageAct) -> Option<Step> {
    let op = match act {
        ImageAct::Pull { image, platform } => Op::Pull(PullRequest {
            image: image.familiar(),
            platform: platform.clone(),
            policy: PullPolicy::Always,
            locked: None,
            service: String::new(),
        }),
        ImageAct::Push { image } => Op::Push(PushRequest { image: image.familiar(), service: String::new() }),
        _ => return None,
    };
    Some(Step { op, needs: Vec::new(), cause: Cause::Missing, optional: false })
}

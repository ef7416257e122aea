//! Whatever happens in whatever order: the ledger balances and agrees with the rows, and no delivery overtakes an
//! earlier one of its lane.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const WEBHOOKS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    Arrive { webhook: usize, conversation: u8, fan: u8, ordered: bool, born: u8 },
    Wait { webhook: usize, conversation: u8 },
    Release { pick: usize, fan: u8 },
    Settle { webhook: usize, pick: usize, verdict: u8 },
    Stand { webhook: usize, standing: u8 },
    Known { mask: u8 },
    Retry { pick: usize },
    RetryAll,
    Pass { minutes: u16 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let webhook = 0..WEBHOOKS.len();
    prop_oneof![
        6 => (webhook.clone(), 0..3u8, 0..4u8, any::<bool>(), 0..8u8).prop_map(|(webhook, conversation, fan, ordered, born)|
            Step::Arrive { webhook, conversation, fan, ordered, born }),
        2 => (webhook.clone(), 0..3u8).prop_map(|(webhook, conversation)| Step::Wait { webhook, conversation }),
        2 => (0..8usize, 0..3u8).prop_map(|(pick, fan)| Step::Release { pick, fan }),
        8 => (webhook.clone(), 0..4usize, 0..8u8).prop_map(|(webhook, pick, verdict)| Step::Settle { webhook, pick, verdict }),
        1 => (webhook, 0..3u8).prop_map(|(webhook, standing)| Step::Stand { webhook, standing }),
        1 => (0..64u8).prop_map(|mask| Step::Known { mask }),
        1 => (0..40usize).prop_map(|pick| Step::Retry { pick }),
        1 => Just(Step::RetryAll),
        1 => (1..3000u16).prop_map(|minutes| Step::Pass { minutes }),
        1 => Just(Step::Reopen),
    ]
}

/// What the test remembers: each delivery's lane and place, and how many were made.
#[derive(Default)]
struct Model {
    made: usize,
    events: i64,
    places: HashMap<String, (String, i64, i64)>,
    waits: HashMap<i64, (usize, u8, i64)>,
}

impl Model {
    fn deliveries(&mut self, webhook: usize, conversation: u8, event: i64, fan: u8, ordered: bool) -> Vec<NewDelivery> {
        (0..i64::from(fan))
            .map(|idx| {
                let id = format!("m{}", self.made);
                self.made += 1;
                if ordered {
                    let lane = format!("{}/{conversation}", WEBHOOKS[webhook]);
                    self.places.insert(id.clone(), (lane, event, idx));
                }
                NewDelivery { ordered, ..delivery(&id) }
            })
            .collect()
    }
}

async fn take(rig: Rig, model: &mut Model, step: Step) -> Rig {
    match step {
        Step::Arrive { webhook, conversation, fan, ordered, born } => {
            model.events += 1;
            let event = model.events;
            let mut all = model.deliveries(webhook, conversation, event, fan, ordered);
            if born == 0 {
                for one in &mut all {
                    one.dead = Some("rule".to_owned());
                }
            }
            let decision = match born {
                0 => Decision::RuleFailed(all),
                _ if fan == 0 => Decision::Filtered,
                _ => Decision::Rendered(all),
            };
            let decisions = vec![(Arc::from(WEBHOOKS[webhook]), decision)];
            rig.accept(vec![Arrival { decisions, ..arrival("e", &format!("c{conversation}")) }]).await;
        }
        Step::Wait { webhook, conversation } => {
            model.events += 1;
            let deadline = rig.now().plus(HOUR);
            let decisions = vec![(Arc::from(WEBHOOKS[webhook]), Decision::Waiting { deadline, ordered: true })];
            let waiting_body = Some(Bytes::from_static(b"{}"));
            rig.accept(vec![Arrival { decisions, waiting_body, ..arrival("w", &format!("c{conversation}")) }]).await;
            let row = rig.count("SELECT max(row) FROM wait");
            model.waits.insert(row, (webhook, conversation, model.events));
        }
        Step::Release { pick, fan } => {
            let mut rows: Vec<i64> = model.waits.keys().copied().collect();
            rows.sort_unstable();
            if let Some(row) = rows.get(pick % rows.len().max(1)).copied() {
                let (webhook, conversation, event) = model.waits.remove(&row).expect("a wait");
                let all = model.deliveries(webhook, conversation, event, fan, true);
                let releases = vec![Release { wait: row, decision: Decision::Rendered(all) }];
                rig.outbox.commit(Batch { releases, ..Batch::default() }).await.expect("a commit");
            }
        }
        Step::Settle { webhook, pick, verdict } => {
            let due = rig.due(WEBHOOKS[webhook]).await;
            if let Some(one) = due.get(pick % due.len().max(1)) {
                let verdict = match verdict {
                    0 => Verdict::Dead("status_400".to_owned()),
                    1 | 2 => Verdict::Retry(rig.now().plus(Duration::from_secs(90))),
                    3 => Verdict::Held("gone".to_owned()),
                    _ => Verdict::Delivered,
                };
                rig.settle(one.row, verdict).await;
            }
        }
        Step::Stand { webhook, standing } => {
            let standing = match standing {
                0 => Standing::Active,
                1 => Standing::Paused,
                _ => Standing::Disabled { reason: "410".to_owned(), file_hash: "v0".to_owned() },
            };
            rig.stand(WEBHOOKS[webhook], standing).await;
        }
        Step::Known { mask } => {
            let there = (0..WEBHOOKS.len()).filter(|n| mask & (1 << n) != 0 || mask & 32 != 0);
            let hash = if mask & 16 == 0 { "v0" } else { "v1" };
            let all = there.map(|n| known(WEBHOOKS[n], mask & 8 == 0 || n != 0, hash)).collect();
            rig.outbox.set_webhooks(all).await.expect("a commit");
        }
        Step::Retry { pick } => {
            rig.outbox.retry(&format!("m{pick}")).await.expect("an answer");
        }
        Step::RetryAll => {
            rig.outbox.retry_where(&Filter::default()).await.expect("an answer");
        }
        Step::Pass { minutes } => {
            rig.clock.advance(Duration::from_secs(60) * u32::from(minutes));
            rig.outbox.maintain().await;
            let there = |row: i64| rig.count(&format!("SELECT count(*) FROM wait WHERE row = {row}")) > 0;
            model.waits.retain(|row, _| there(*row));
        }
        Step::Reopen => return rig.reopen(options()).await,
    }
    rig
}

async fn check(rig: &Rig, model: &Model) {
    let ledger = rig.outbox.ledger().await.expect("a ledger");
    assert!(ledger.balanced, "{ledger:?}");
    let found = inspect(rig.dir.path(), true).expect("readable");
    assert_eq!(found.problems, Vec::<String>::new());
    let reader = Outbox::open_read_only(rig.dir.path(), rig.clock.clone()).expect("a reader");
    assert_eq!(ledger, reader.ledger().await.expect("a ledger"), "memory and store say the same");
    for row in &ledger.webhooks {
        let count = |state| {
            rig.count(&format!(
                "SELECT count(*) FROM delivery JOIN webhook ON webhook.id = delivery.webhook
                 WHERE webhook.name = '{}' AND state = {state}",
                row.webhook
            ))
            .unsigned_abs()
        };
        assert_eq!((row.pending + row.held, row.delivered, row.dead), (count(0), count(1), count(2)), "{row:?}");
    }
    // Owed: a payload and, where ordered, a place; settled: no place and no owed payload.
    let loose = "SELECT (SELECT count(*) FROM delivery WHERE state = 0) - (SELECT count(*) FROM body)";
    assert_eq!(rig.count(loose), 0);
    let lanes = "SELECT (SELECT count(*) FROM delivery WHERE state = 0 AND lane IS NOT NULL)
                      - (SELECT count(*) FROM lane WHERE delivery != 0)";
    assert_eq!(rig.count(lanes), 0);
    // Ready are exactly the unordered and the first of each lane.
    let first = "SELECT count(*) FROM delivery d WHERE state = 0 AND ready != (lane IS NULL OR row =
                     (SELECT delivery FROM lane l WHERE l.lane = d.lane ORDER BY seq, idx LIMIT 1))";
    assert_eq!(rig.count(first), 0);
    let mut owed: HashMap<&str, (i64, i64)> = HashMap::new();
    let pending = Filter { state: Some(State::Pending), ..Filter::default() };
    let views = rig.outbox.list(&pending, None, 1000).await.expect("a list").items;
    for view in &views {
        if let Some((lane, event, idx)) = model.places.get(&view.id) {
            let least = owed.entry(lane).or_insert((*event, *idx));
            *least = (*least).min((*event, *idx));
        }
    }
    for webhook in WEBHOOKS {
        for one in rig.due(webhook).await {
            if let Some((lane, event, idx)) = model.places.get(&one.id) {
                assert_eq!(owed.get(lane.as_str()), Some(&(*event, *idx)), "{} overtook", one.id);
                let waits =
                    model.waits.values().any(|(w, c, at)| format!("{}/{c}", WEBHOOKS[*w]) == *lane && at < event);
                assert!(!waits, "{} overtook an event that waits", one.id);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_balances_and_lanes_keep_their_order(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut rig = Rig::new();
            let mut model = Model::default();
            for step in steps {
                rig = take(rig, &mut model, step).await;
                check(&rig, &model).await;
            }
        });
    }
}

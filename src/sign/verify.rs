//! Checking a Standard Webhooks signature, for receivers: `sidehook verify`, `listen`, `demo` and the tests.
//! Knows no clock: the caller says what time it is.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::key::VerifyKey;
use crate::clock::Timestamp;

/// How far a timestamp may be off in either direction, as the reference libraries have it.
pub const DEFAULT_TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// Signatures of one header that are looked at, so that a hostile header costs little.
const SIGNATURES: usize = 64;

/// Why a request is not what it claims to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No key to check against.
    #[error("no secret was given to verify with")]
    NoKey,
    /// A header is not there.
    #[error("the {0} header is missing")]
    Missing(&'static str),
    /// Not whole seconds.
    #[error("webhook-timestamp must be whole seconds since 1970, such as 1614265330")]
    Timestamp,
    /// No signature of a kind that any key could check.
    #[error("webhook-signature holds no {0} signature, which is what this secret verifies")]
    NoSignature(&'static str),
    /// Signatures are there, none is right.
    #[error("no signature matches: the secret is another one, or id, timestamp or body were changed on the way")]
    Mismatch,
    /// Signed too long ago.
    #[error("the signature is right, but webhook-timestamp is {0} s in the past, more than the tolerance")]
    TooOld(u64),
    /// Signed in the future.
    #[error("the signature is right, but webhook-timestamp is {0} s in the future, more than the tolerance")]
    TooNew(u64),
}

/// Whether any of `keys` made any of the signatures in `signature` (the header's value) over `id`, `timestamp` and
/// `body`, and whether `timestamp` is within `tolerance` of `now` (`None`: not looked at). The time is looked at last,
/// so that a wrong clock and a wrong secret are told apart.
pub fn verify(
    keys: &[VerifyKey],
    id: &str,
    timestamp: &str,
    signature: &str,
    body: &[u8],
    now: Timestamp,
    tolerance: Option<Duration>,
) -> Result<(), VerifyError> {
    let first = keys.first().ok_or(VerifyError::NoKey)?;
    if id.is_empty() {
        return Err(VerifyError::Missing("webhook-id"));
    }
    if signature.trim().is_empty() {
        return Err(VerifyError::Missing("webhook-signature"));
    }
    let seconds: i64 = if timestamp.bytes().all(|b| b.is_ascii_digit()) {
        timestamp.parse().map_err(|_| VerifyError::Timestamp)?
    } else {
        return Err(VerifyError::Timestamp);
    };
    let mut comparable = false;
    let mut matched = false;
    for part in signature.split_ascii_whitespace().take(SIGNATURES) {
        let Some((version, encoded)) = part.split_once(',') else { continue };
        for key in keys.iter().filter(|key| key.version() == version) {
            comparable = true;
            let Ok(bytes) = STANDARD.decode(encoded) else { continue };
            matched |= key.accepts(&bytes, id, timestamp, body);
        }
    }
    if !matched {
        return Err(if comparable { VerifyError::Mismatch } else { VerifyError::NoSignature(first.version()) });
    }
    let Some(tolerance) = tolerance else { return Ok(()) };
    let age = now.as_secs().saturating_sub(seconds);
    if age.unsigned_abs() <= tolerance.as_secs() {
        Ok(())
    } else if age > 0 {
        Err(VerifyError::TooOld(age.unsigned_abs()))
    } else {
        Err(VerifyError::TooNew(age.unsigned_abs()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secret::Secret;
    use crate::sign::{Signer, SigningKey};

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SIG: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    const SIG_A: &str = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

    fn key(text: &str) -> VerifyKey {
        VerifyKey::parse(&Secret::new(text)).expect("a valid key")
    }

    /// Secret, id, timestamp, signature, now, tolerance, what the error says.
    type Case<'a> = (&'a str, &'a str, &'a str, &'a str, Timestamp, Option<Duration>, Option<&'a str>);

    #[test]
    fn cases() {
        let at = |secs: i64| Timestamp::from_millis(secs * 1000);
        let five = Some(DEFAULT_TOLERANCE);
        let t = "1614265330";
        let both = format!("v1,AAAA v9,zzz {SIG} {SIG_A}");
        let table: &[Case<'_>] = &[
            (SECRET, ID, t, SIG, at(1_614_265_330), five, None),
            (SECRET, ID, t, &both, at(1_614_265_330 + 300), five, None),
            (PUBLIC, ID, t, &both, at(1_614_265_330 - 300), five, None),
            (PUBLIC, ID, t, SIG_A, at(0), None, None),
            (SECRET, ID, t, SIG, at(1_614_265_330 + 301), five, Some("301 s in the past")),
            (SECRET, ID, t, SIG, at(1_614_265_330 - 301), five, Some("301 s in the future")),
            (SECRET, "msg_x", t, SIG, at(0), None, Some("no signature matches")),
            (SECRET, ID, "1614265331", SIG, at(0), None, Some("no signature matches")),
            (SECRET, ID, "01614265330", SIG, at(0), None, Some("no signature matches")),
            (SECRET, ID, "-5", SIG, at(0), None, Some("whole seconds since 1970")),
            (SECRET, ID, "", SIG, at(0), None, Some("whole seconds since 1970")),
            (SECRET, ID, "99999999999999999999", SIG, at(0), None, Some("whole seconds since 1970")),
            (SECRET, ID, t, SIG_A, at(0), None, Some("holds no v1 signature")),
            (PUBLIC, ID, t, SIG, at(0), None, Some("holds no v1a signature")),
            (SECRET, ID, t, "nonsense", at(0), None, Some("holds no v1 signature")),
            (SECRET, ID, t, "v1,!!!", at(0), None, Some("no signature matches")),
            (SECRET, ID, t, " ", at(0), None, Some("webhook-signature header is missing")),
            (SECRET, "", t, SIG, at(0), None, Some("webhook-id header is missing")),
        ];
        for (secret, id, timestamp, signature, now, tolerance, expected) in table {
            let result = verify(&[key(secret)], id, timestamp, signature, BODY, *now, *tolerance);
            match (result, expected) {
                (Ok(()), None) => {}
                (Err(e), Some(text)) => assert!(e.to_string().contains(text), "{e} instead of {text}"),
                (got, want) => panic!("{id} {timestamp} {signature}: {got:?}, wanted {want:?}"),
            }
        }
        assert_eq!(verify(&[], ID, t, SIG, BODY, at(0), None), Err(VerifyError::NoKey));
        assert_eq!(verify(&[key(PUBLIC), key(SECRET)], ID, t, SIG, BODY, at(0), None), Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies_and_what_is_changed_does_not(
            hmac in any::<bool>(),
            raw in proptest::collection::vec(any::<u8>(), 32),
            body in proptest::collection::vec(any::<u8>(), 0..300),
            seconds in 0i64..4_000_000_000,
            flip in any::<prop::sample::Index>(),
        ) {
            let secret = Secret::new(format!("{}{}", if hmac { "whsec_" } else { "whsk_" }, STANDARD.encode(&raw)));
            let signer = Signer::Standard(vec![SigningKey::parse(&secret).expect("valid")]);
            let headers = signer.headers("msg_1", seconds, &body);
            let (timestamp, signature) = (headers[1].1.to_str().expect("ascii"), headers[2].1.to_str().expect("ascii"));
            let keys = [VerifyKey::parse(&secret).expect("valid")];
            let now = Timestamp::from_millis(seconds * 1000);
            prop_assert_eq!(verify(&keys, "msg_1", timestamp, signature, &body, now, Some(Duration::ZERO)), Ok(()));

            let mut longer = body.clone();
            longer.push(0);
            prop_assert!(verify(&keys, "msg_1", timestamp, signature, &longer, now, None).is_err());
            if !body.is_empty() {
                let mut tampered = body.clone();
                tampered[flip.index(body.len())] ^= 1;
                prop_assert!(verify(&keys, "msg_1", timestamp, signature, &tampered, now, None).is_err());
            }
            prop_assert!(verify(&keys, "msg_2", timestamp, signature, &body, now, None).is_err());
            let later = (seconds + 1).to_string();
            prop_assert!(verify(&keys, "msg_1", &later, signature, &body, now, None).is_err());
        }

        #[test]
        fn no_header_makes_it_panic(timestamp in ".{0,20}", signature in ".{0,200}") {
            let _ = verify(&[key(SECRET)], ID, &timestamp, &signature, BODY, Timestamp::default(), None);
        }
    }
}

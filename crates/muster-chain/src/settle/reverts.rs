//! A contract's error as a sentence.

use alloy::sol_types::{Panic, Revert, SolError, SolInterface};
use muster_core::units::TokenAmount;

use crate::contracts::abi::CheckerLicence::CheckerLicenceErrors as Licence;
use crate::contracts::abi::DrandBeacon::DrandBeaconErrors as Beacon;
use crate::contracts::abi::EpochRewards::EpochRewardsErrors as Rewards;
use crate::contracts::abi::LeaseEscrow::LeaseEscrowErrors as Escrow;
use crate::contracts::abi::MusterToken::MusterTokenErrors as Token;
use crate::contracts::abi::Registry::RegistryErrors as Registry;

/// What a call's return data says about why it reverted.
pub(crate) fn explain(data: &[u8]) -> String {
    if data.is_empty() {
        return "the contract refused without a reason".to_owned();
    }
    if let Ok(error) = Escrow::abi_decode(data) {
        return escrow(error);
    }
    if let Ok(error) = Registry::abi_decode(data) {
        return registry(error);
    }
    if let Ok(error) = Token::abi_decode(data) {
        return token(error);
    }
    if let Ok(error) = Rewards::abi_decode(data) {
        return rewards(error);
    }
    if let Ok(error) = Licence::abi_decode(data) {
        return licence(error);
    }
    if let Ok(error) = Beacon::abi_decode(data) {
        return beacon(error);
    }
    if let Ok(revert) = Revert::abi_decode(data) {
        return format!("the contract refused: {}", revert.reason);
    }
    if let Ok(panic) = Panic::abi_decode(data) {
        return format!("the contract failed: {panic}");
    }
    let shown = data.get(..4).unwrap_or(data);
    format!("the contract refused with the unknown error 0x{}", hex::encode(shown))
}

fn tokens(amount: u128) -> TokenAmount {
    TokenAmount(amount)
}

fn escrow(error: Escrow) -> String {
    match error {
        Escrow::AboveDeposit(e) => {
            format!("the voucher promises {}, the deposit is only {}", tokens(e.amount), tokens(e.deposit))
        }
        Escrow::BelowRedeemed(e) => {
            format!("the voucher promises {}, {} was redeemed already", tokens(e.amount), tokens(e.redeemed))
        }
        Escrow::BadSignature(_) => "the voucher is not signed by the lease's session key".to_owned(),
        Escrow::ContainerNotActive(e) => {
            format!("Container {} is not registered, or is jailed or leaving", hex::encode(e.container))
        }
        Escrow::LeaseExists(e) => format!("lease {} was opened already", e.lease),
        Escrow::UnknownLease(e) => format!("there is no lease {}", e.lease),
        Escrow::NotOpen(e) => format!("lease {} is not open any more", e.lease),
        Escrow::WindowOver(e) => format!("the time to redeem vouchers of lease {} is over", e.lease),
        Escrow::NotConsumer(e) => format!("lease {} belongs to another consumer than {}", e.lease, e.caller),
        Escrow::NotPayee(e) => format!("{} is not who gets paid by lease {}", e.caller, e.lease),
        Escrow::TooEarly(e) => format!("this can be done from {} on (Unix seconds)", e.from),
        Escrow::NothingToClaim(_) => "there is nothing to claim yet".to_owned(),
        Escrow::ZeroAmount(_) => "the amount is zero".to_owned(),
        Escrow::BadAddress(_) => "an address is zero".to_owned(),
        Escrow::BadBatch(e) => format!("a batch of {} bytes is not a whole number of vouchers", e.length),
        Escrow::OutOfBounds(_) => "a value is out of the bounds that the contract allows".to_owned(),
        Escrow::EnforcedPause(_) => {
            "the contract is paused: nothing can be opened now, all money can get out".to_owned()
        }
        Escrow::AccessControlUnauthorizedAccount(e) => format!("{} has no right to do this", e.account),
        other => format!("the escrow refused: {}", name_of(&other)),
    }
}

fn registry(error: Registry) -> String {
    match error {
        Registry::BelowMinStake(e) => {
            format!("a stake of {} is below the least stake of {}", tokens(e.stake), tokens(e.minStake))
        }
        Registry::InsufficientStake(e) => {
            format!("{} is more than the stake of {}", tokens(e.amount), tokens(e.stake))
        }
        Registry::KeyTaken(e) => format!("node key {} is registered already", hex::encode(e.nodeKey)),
        Registry::UnknownNode(e) => format!("node {} is not registered", hex::encode(e.nodeKey)),
        Registry::NotOwner(e) => format!("node {} belongs to another owner than {}", hex::encode(e.nodeKey), e.caller),
        Registry::NotServing(e) => format!("node {} is leaving or has left", hex::encode(e.nodeKey)),
        Registry::StillUnbonding(e) => {
            format!("node {} still has stake that is unbonding: withdraw it first", hex::encode(e.nodeKey))
        }
        Registry::Unbonding(e) => format!("the stake is bound until {} (Unix seconds)", e.unbondAt),
        Registry::NothingToTake(e) => format!("node {} has nothing to take", hex::encode(e.nodeKey)),
        Registry::EndpointTooLong(e) => format!("the endpoint has {} bytes, which is too long", e.length),
        Registry::EvidenceUsed(_) => "this evidence was used already".to_owned(),
        Registry::UnknownKind(e) => format!("there is no kind of node {}", e.kind),
        Registry::ZeroAmount(_) => "the amount is zero".to_owned(),
        Registry::WrongKey(e) => format!(
            "{} is no key for this: an app has that of its name, and no node has one that begins like an app's",
            hex::encode(e.nodeKey)
        ),
        Registry::ZeroKey(_) => "the node key is zero".to_owned(),
        other => format!("the registry refused: {}", name_of(&other)),
    }
}

fn token(error: Token) -> String {
    match error {
        Token::ERC20InsufficientBalance(e) => format!(
            "{} has {} tokens, {} are needed",
            e.sender,
            crate::convert::amount(e.balance),
            crate::convert::amount(e.needed)
        ),
        Token::ERC20InsufficientAllowance(e) => format!(
            "{} may spend {} tokens, {} are needed: approve it first",
            e.spender,
            crate::convert::amount(e.allowance),
            crate::convert::amount(e.needed)
        ),
        Token::ERC3009UsedAuthorization(_) => "the authorization was used already, or cancelled".to_owned(),
        Token::ERC3009InvalidAuthorizationTime(e) => {
            format!("the authorization is good after {} and before {} (Unix seconds)", e.validAfter, e.validBefore)
        }
        Token::ERC3009InvalidSignature(_) => "the authorization is signed by somebody else".to_owned(),
        Token::ERC2612ExpiredSignature(_) => "the permit has expired".to_owned(),
        Token::ERC2612InvalidSigner(_) => "the permit is signed by somebody else".to_owned(),
        other => format!("the token refused: {}", name_of(&other)),
    }
}

fn rewards(error: Rewards) -> String {
    match error {
        Rewards::AlreadyPosted(e) => format!("the outcome number {} was posted already", e.sequence),
        Rewards::NotOnRecord(e) => {
            format!("the outcome number {} is not on record as it was given: read it again", e.sequence)
        }
        Rewards::WrongStatus(e) => format!("the outcome number {} is in state {}: not now", e.sequence, e.status),
        Rewards::RingFull(_) => "too many outcomes are pending: finalize the oldest first".to_owned(),
        Rewards::WrongEpochs(e) => format!("the outcome must begin with epoch {}", e.expectedFirst),
        Rewards::EpochNotOver(e) => format!("the outcome's last epoch ends at {} (Unix seconds)", e.endsAt),
        Rewards::AboveCap(e) => format!(
            "the outcome grants {} in all, at most {} are allowed",
            crate::convert::amount(e.cumulativeTotal),
            crate::convert::amount(e.most)
        ),
        Rewards::WrongCommittee(_) => "the signatures are not those of the committee that was named".to_owned(),
        Rewards::TooFewSignatures(e) => {
            format!("{} of {} members signed, two thirds are needed", e.signed, e.members)
        }
        Rewards::NotNext(e) => format!("outcomes become final in their order: {} is next", e.expected),
        Rewards::NotCovered(e) => format!(
            "the outcome grants {} in all, only {} are paid in: fund the rewards first",
            tokens(e.cumulativeTotal),
            crate::convert::amount(e.covered)
        ),
        Rewards::BadProof(_) => "the leaf is not under the root that counts".to_owned(),
        Rewards::AlreadySlashed(e) => format!("this was slashed already (evidence {})", e.evidence),
        Rewards::NotASigner(e) => format!("{} did not sign, or owns no such Checker", e.member),
        other => format!("the rewards contract refused: {}", name_of(&other)),
    }
}

fn licence(error: Licence) -> String {
    match error {
        Licence::CapReached(e) => format!("only {} licences are left, {} were asked for", e.left, e.count),
        Licence::PriceAbove(e) => {
            format!("a licence costs {} now, more than the {} allowed", tokens(e.price), tokens(e.most))
        }
        Licence::NotOwner(e) => format!("licence {} belongs to another owner than {}", e.id, e.caller),
        Licence::CheckerNotActive(e) => {
            format!("Checker {} is not registered, or is jailed or leaving", hex::encode(e.nodeKey))
        }
        Licence::NotDelegated(e) => format!("licence {} is delegated to no Checker", e.id),
        Licence::BadCount(e) => format!("{} licences in one call: 1 to 200 are possible", e.count),
        other => format!("the licence contract refused: {}", name_of(&other)),
    }
}

fn beacon(error: Beacon) -> String {
    match error {
        Beacon::BadSignature(e) => format!("the signature of round {} is not the beacon's", e.round),
        other => format!("the beacon contract refused: {}", name_of(&other)),
    }
}

/// The error's name in the contract.
fn name_of(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    text.split(['(', ' ', '{']).next().unwrap_or("error").to_owned()
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Committee} from "../src/Committee.sol";
import {EpochRewards} from "../src/EpochRewards.sol";
import {EpochRewardsBase} from "../src/EpochRewardsBase.sol";
import {RewardsBase} from "./utils/RewardsBase.sol";

/// From what committees sign to what counts.
contract EpochOutcomesTest is RewardsBase {
    function test_anOutcomeIsPostedAndBecomesFinalAfterItsWindow() public {
        EpochRewardsBase.Posted memory p = postNext(keccak256("rewards"), keccak256("slashes"));
        vm.assertEq(rewards.statusAt(1), 1, "pending");
        vm.assertEq(rewards.rewardRoot(), 0, "nothing counts yet");
        vm.warp(p.postedAt + DISPUTE - 1);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.TooEarly.selector, p.postedAt + DISPUTE));
        rewards.finalize(p);
        finalize(p);
        vm.assertEq(rewards.statusAt(1), 6, "final");
        vm.assertEq(rewards.rewardRoot(), p.outcome.rewardRoot, "root");
        vm.assertEq(rewards.slashRoots(p.outcome.lastEpoch), p.outcome.slashRoot, "slashes");
        vm.assertEq(rewards.finalEpoch(), p.outcome.lastEpoch, "epoch");
        vm.assertEq(token.balanceOf(address(rewards)), EMISSION, "what is granted lies here");
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.NotNext.selector, 2));
        rewards.finalize(p);
    }

    function test_aRangeSettlesEmptyEpochsAtOnce() public {
        pass(40);
        EpochRewardsBase.Posted memory p = post(following(40, keccak256("rewards"), 0));
        vm.assertEq(p.outcome.cumulativeTotal, 40 * EMISSION, "forty epochs");
        finalize(p);
        vm.assertEq(rewards.finalEpoch(), FIRST + 39, "epoch");
    }

    function test_outcomesBecomeFinalInTheirOrder() public {
        EpochRewardsBase.Posted memory one = postNext(keccak256("1"), 0);
        EpochRewardsBase.Posted memory two = postNext(keccak256("2"), 0);
        vm.warp(two.postedAt + DISPUTE);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.NotNext.selector, 1));
        rewards.finalize(two);
        rewards.finalize(one);
        rewards.finalize(two);
        vm.assertEq(rewards.rewardRoot(), keccak256("2"), "root");
    }

    function test_onlyWhatFollowsIsPosted() public {
        pass(3);
        EpochRewardsBase.Outcome memory o = following(1, keccak256("r"), 0);
        o.firstEpoch += 1;
        o.lastEpoch += 1;
        refusedPost(o, abi.encodeWithSelector(EpochRewardsBase.NotOnRecord.selector, 0));
        o = following(1, keccak256("r"), 0);
        o.lastEpoch -= 1;
        refusedPost(o, abi.encodeWithSelector(EpochRewardsBase.WrongEpochs.selector, FIRST));
        o = following(4, keccak256("r"), 0);
        uint256 ends = (uint256(FIRST) + 4) * EPOCH;
        refusedPost(o, abi.encodeWithSelector(EpochRewardsBase.EpochNotOver.selector, ends));
        o = following(2, keccak256("r"), 0);
        uint256 most = 2 * (uint256(EMISSION) + DELIVERY);
        o.cumulativeTotal = uint128(most) + 1;
        refusedPost(o, abi.encodeWithSelector(EpochRewardsBase.AboveCap.selector, most + 1, most));
        o.cumulativeTotal = uint128(most);
        post(o);
        o = following(1, keccak256("r"), 0);
        o.cumulativeTotal = uint128(most) - 1;
        refusedPost(o, abi.encodeWithSelector(EpochRewardsBase.AboveCap.selector, most - 1, most + EMISSION + DELIVERY));
    }

    function test_nothingIsPostedTwiceNorOnWhatIsNotTheTip() public {
        pass(2);
        EpochRewardsBase.Posted memory genesis = tip;
        EpochRewardsBase.Outcome memory o = following(1, keccak256("r"), 0);
        EpochRewardsBase.Posted memory one = post(o);
        bytes memory packed = packPost(genesis, o, bits(5));
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.AlreadyPosted.selector, 1));
        rewards.post(packed);
        // Anything about the one before that is not as it was.
        EpochRewardsBase.Outcome memory next = following(1, keccak256("s"), 0);
        for (uint256 i = 0; i < 4; ++i) {
            EpochRewardsBase.Posted memory other = copy(one);
            if (i == 0) other.outcome.cumulativeTotal -= 1;
            if (i == 1) other.postedAt += 1;
            if (i == 2) other.signers = bits(6);
            if (i == 3) other.outcome.rewardRoot = keccak256("x");
            packed = packPost(other, next, bits(5));
            vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.NotOnRecord.selector, 1));
            rewards.post(packed);
        }
        packed = packPost(one, next, bits(5));
        // A place that holds nothing, of the same number modulo the ring.
        one.sequence += 8;
        bytes memory elsewhere = packPost(one, next, bits(5));
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.NotOnRecord.selector, 9));
        rewards.post(elsewhere);
        rewards.post(packed);
    }

    function test_twoThirdsOfTheCommitteeMustSign() public {
        pass(1);
        EpochRewardsBase.Outcome memory o = following(1, keccak256("r"), 0);
        bytes memory packed = packPost(tip, o, bits(4));
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.TooFewSignatures.selector, 4, 7));
        rewards.post(packed);
        // Any five will do.
        rewards.post(packPost(tip, o, 0x57));
    }

    function test_onlyTheCommitteeCounts() public {
        pass(1);
        EpochRewardsBase.Outcome memory o = following(1, keccak256("r"), 0);
        bytes32 digest = rewards.signingDigest(digestOf(tip), o);
        refused(packPost(tip, o, bits(7), pack(MEMBER_KEY + 1, 7, bits(7), digest)));
        refused(packPost(tip, o, bits(6), pack(MEMBER_KEY, 6, bits(6), digest)));
        // A signature over something else recovers to somebody else.
        refused(packPost(tip, o, bits(5), pack(MEMBER_KEY, 7, bits(5), keccak256("else"))));
        bytes memory good = pack(MEMBER_KEY, 7, bits(5), digest);
        refused(packPost(tip, o, bits(5), bytes.concat(good, hex"00")), Committee.BadSignatures.selector);
        refused(packPost(tip, o, bits(5) | 0x80, good), Committee.BadSignatures.selector);
        // r = 0 recovers to nobody.
        assembly {
            mstore(add(good, 0x20), 0)
        }
        refused(packPost(tip, o, bits(5), good), Committee.BadSignatures.selector);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.BadPost.selector, 263));
        rewards.post(new bytes(263));
    }

    function test_aSignatureCountsAfterItsParentOnly() public {
        pass(2);
        EpochRewardsBase.Posted memory genesis = tip;
        EpochRewardsBase.Posted memory one = post(following(1, keccak256("1"), 0));
        EpochRewardsBase.Outcome memory next = following(1, keccak256("2"), 0);
        bytes memory stale = signed(genesis, next, bits(5));
        refused(packPost(one, next, bits(5), stale));
    }

    function testFuzz_aChangedPostIsRefused(uint256 at, uint8 flip) public {
        pass(2);
        bytes memory packed = packPost(tip, following(1, keccak256("1"), keccak256("s")), bits(5));
        if (flip == 0) flip = 1;
        packed[at % packed.length] ^= bytes1(flip);
        vm.expectRevert();
        rewards.post(packed);
    }

    /// Found by the test above: bits of a sequence beyond the fortieth hid among those of the hash, at the same place of
    /// the ring.
    function test_aSequenceThatReachesIntoTheHashIsRefused() public {
        pass(2);
        EpochRewardsBase.Posted memory p = tip;
        EpochRewardsBase.Outcome memory o = following(1, keccak256("1"), 0);
        EpochRewardsBase.Posted memory one = post(following(1, keccak256("0"), 0));
        for (uint64 bit = 40; bit < 64; ++bit) {
            p.sequence = uint64(1) << bit;
            refused(packPost(p, o, bits(5)));
            one.sequence = 1 + (uint64(1) << bit);
            vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.NotOnRecord.selector, one.sequence));
            vm.prank(stranger);
            rewards.dispute(one);
        }
    }

    function test_theRingIsNeverOverrun() public {
        EpochRewardsBase.Posted memory first = postNext(keccak256("0"), 0);
        for (uint256 i = 1; i < 7; ++i) {
            postNext(keccak256(abi.encode(i)), 0);
        }
        // Seven are pending, the eighth place holds the final one before them.
        pass(1);
        EpochRewardsBase.Outcome memory o = following(1, keccak256("7"), 0);
        EpochRewardsBase.Posted memory seventh = tip;
        post(o);
        pass(1);
        o = following(1, keccak256("8"), 0);
        bytes memory packed = packPost(tip, o, bits(5));
        vm.expectRevert(EpochRewardsBase.RingFull.selector);
        rewards.post(packed);
        finalize(first);
        post(o);
        vm.assertTrue(seventh.sequence == 7, "seven before");
    }

    function test_whatIsNotPaidInDoesNotBecomeFinal() public {
        pass(1);
        EpochRewardsBase.Outcome memory o = following(1, keccak256("r"), 0);
        o.cumulativeTotal += DELIVERY;
        EpochRewards poor = rewards;
        EpochRewardsBase.Posted memory p = post(o);
        finalize(p);
        vm.assertEq(poor.cumulativeTotal(), EMISSION + DELIVERY, "fees cover it");
        // Until the fees that were paid in are used up.
        for (uint256 i = 1; i < 100; ++i) {
            pass(1);
            o = following(1, keccak256("r"), 0);
            o.cumulativeTotal += DELIVERY;
            finalize(post(o));
        }
        pass(1);
        o = following(1, keccak256("r"), 0);
        o.cumulativeTotal += DELIVERY;
        p = post(o);
        vm.warp(p.postedAt + DISPUTE);
        uint256 covered = 101 * uint256(EMISSION) + 10_000e18;
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.NotCovered.selector, o.cumulativeTotal, covered));
        rewards.finalize(p);
        vm.prank(treasury);
        rewards.fund(0, DELIVERY, 0);
        rewards.finalize(p);
    }

    function test_emissionHalves() public view {
        vm.assertEq(rewards.emission(FIRST, FIRST), EMISSION, "first");
        vm.assertEq(rewards.emission(FIRST, FIRST + 999), 1000 * uint256(EMISSION), "first period");
        vm.assertEq(rewards.emission(FIRST + 999, FIRST + 1000), EMISSION + EMISSION / 2, "across");
        vm.assertEq(rewards.emission(FIRST, FIRST + 2999), 1750 * uint256(EMISSION), "three periods");
        vm.assertEq(rewards.emission(0, FIRST - 1), 0, "before");
        vm.assertEq(rewards.emission(0, FIRST), EMISSION, "from before");
        vm.assertEq(rewards.emission(FIRST + 5, FIRST + 4), 0, "empty");
        vm.assertLe(rewards.emission(FIRST, type(uint64).max), 2000 * uint256(EMISSION), "never more than twice");
    }

    function testFuzz_emissionAddsUp(uint32 a, uint32 b, uint32 c) public view {
        uint64 first = FIRST + a % 5000;
        uint64 middle = first + b % 5000;
        uint64 last = middle + 1 + c % 5000;
        uint256 sum = rewards.emission(first, middle) + rewards.emission(middle + 1, last);
        vm.assertEq(sum, rewards.emission(first, last), "parts");
    }

    function test_theBootstrapIsTheGovernorsAndOnce() public {
        vm.prank(admin);
        vm.expectRevert(EpochRewardsBase.AlreadyBootstrapped.selector);
        rewards.bootstrap(1, keccak256("a"), keccak256("b"));
        EpochRewards other = new EpochRewards(config());
        vm.prank(stranger);
        vm.expectRevert();
        other.bootstrap(FIRST, keccak256("a"), keccak256("b"));
        vm.prank(admin);
        vm.expectRevert(EpochRewardsBase.OutOfBounds.selector);
        other.bootstrap(FIRST, 0, keccak256("b"));
        vm.prank(admin);
        vm.expectRevert(EpochRewardsBase.OutOfBounds.selector);
        other.bootstrap(FIRST - 2, keccak256("a"), keccak256("b"));
    }

    function test_theGovernorNamesCommitteesAfterALongSilenceOnly() public {
        EpochRewardsBase.Posted memory p = postNext(keccak256("r"), 0);
        finalize(p);
        bytes32 fresh = keccak256(abi.encodePacked(list(0xabc, 3)));
        vm.prank(stranger);
        vm.expectRevert();
        rewards.resetCommittees(p, fresh, fresh);
        vm.prank(admin);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.TooEarly.selector, p.postedAt + RESET));
        rewards.resetCommittees(p, fresh, fresh);
        vm.warp(p.postedAt + RESET);
        vm.prank(admin);
        rewards.resetCommittees(p, fresh, fresh);
        vm.assertEq(rewards.rewardRoot(), keccak256("r"), "nothing else changes");
        // The old committee is out, the new one goes on.
        EpochRewardsBase.Outcome memory o = following(1, keccak256("s"), 0);
        refused(packPost(tip, o, bits(5)), EpochRewardsBase.NotOnRecord.selector);
        bytes32 parent = digestOf(p);
        EpochRewardsBase.Posted memory named = copy(p);
        named.parent = parent;
        named.outcome.nextCommittee = fresh;
        named.outcome.nextDisputeCommittee = fresh;
        named.postedAt = uint64(block.timestamp);
        named.signers = 0;
        bytes memory signatures = pack(0xabc, 3, 3, rewards.signingDigest(digestOf(named), o));
        rewards.post(packPost(named, o, 3, signatures));
        // Not while something is pending.
        vm.warp(block.timestamp + RESET);
        vm.prank(admin);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.WrongStatus.selector, 2, 1));
        rewards.resetCommittees(named, fresh, fresh);
    }

    // ---- disputes ----

    function test_aWrongDisputeCostsItsBond() public {
        EpochRewardsBase.Posted memory parent = tip;
        EpochRewardsBase.Posted memory p = postNext(keccak256("r"), 0);
        EpochRewardsBase.Posted memory later = postNext(keccak256("s"), 0);
        uint256 before = token.balanceOf(stranger);
        vm.prank(stranger);
        rewards.dispute(p);
        vm.assertEq(token.balanceOf(stranger), before - BOND, "bond");
        vm.warp(later.postedAt + DISPUTE);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.WrongStatus.selector, 1, 2));
        rewards.finalize(p);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.NotNext.selector, 1));
        rewards.finalize(later);
        rewards.resolve(parent, p, p.outcome, bits(14), judged(parent, p.outcome, bits(14)));
        vm.assertEq(rewards.credits(penaltyPool), BOND, "to the pool");
        rewards.withdrawCredit(penaltyPool);
        vm.assertEq(token.balanceOf(penaltyPool), BOND, "paid");
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.WrongStatus.selector, 1, 4));
        rewards.dispute(p);
        rewards.finalize(p);
        rewards.finalize(later);
    }

    function test_aWrongOutcomeIsReplacedAndItsSignersAreSlashed() public {
        EpochRewardsBase.Posted memory parent = tip;
        EpochRewardsBase.Posted memory wrong = postNext(keccak256("wrong"), 0);
        EpochRewardsBase.Posted memory later = postNext(keccak256("later"), 0);
        vm.prank(stranger);
        rewards.dispute(wrong);
        vm.prank(stranger);
        rewards.dispute(later);
        EpochRewardsBase.Posted memory right = resolve(parent, wrong, keccak256("right"));
        vm.assertEq(rewards.credits(stranger), 2 * BOND + BOUNTY, "both bonds, one bounty");
        vm.assertEq(rewards.statusAt(later.sequence), 0, "later ones fall");
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.NotOnRecord.selector, 2));
        rewards.finalize(later);
        rewards.withdrawCredit(stranger);

        // Its signers are slashed once the right one counts, not before.
        bytes32 checker = keccak256("checker");
        address member = vm.addr(MEMBER_KEY);
        fund(member, 10_000e18);
        vm.prank(member);
        registry.register(3, checker, "", 0, MIN_STAKE);
        address[] memory committee = list(MEMBER_KEY, MEMBERS);
        vm.expectRevert();
        rewards.slashSigner(1, committee, 0, checker);
        tip = right;
        EpochRewardsBase.Posted memory again = postNext(keccak256("again"), 0);
        finalize(right);
        vm.assertEq(rewards.rewardRoot(), keccak256("right"), "the right one counts");
        vm.assertEq(rewards.slashSigner(1, committee, 0, checker), SIGNER_PENALTY, "slashed");
        vm.expectRevert();
        rewards.slashSigner(1, committee, 0, checker);
        // Member 5 did not sign, and a Container is no Checker.
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.NotASigner.selector, committee[5]));
        rewards.slashSigner(1, committee, 5, checker);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.NotASigner.selector, committee[1]));
        rewards.slashSigner(1, committee, 1, NODE);
        finalize(again);
    }

    function test_onlyTheDisputeCommitteeResolves() public {
        EpochRewardsBase.Posted memory parent = tip;
        EpochRewardsBase.Posted memory p = postNext(keccak256("r"), 0);
        EpochRewardsBase.Outcome memory o = copy(p).outcome;
        o.rewardRoot = keccak256("other");
        bytes memory byJudges = judged(parent, o, bits(14));
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.WrongStatus.selector, 1, 1));
        rewards.resolve(parent, p, o, bits(14), byJudges);
        vm.prank(stranger);
        rewards.dispute(p);
        bytes memory byMembers = signed(parent, o, bits(5));
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.WrongCommittee.selector, judgesHash(), committeeHash()));
        rewards.resolve(parent, p, o, bits(5), byMembers);
        bytes memory tooFew = judged(parent, o, bits(13));
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.TooFewSignatures.selector, 13, 21));
        rewards.resolve(parent, p, o, bits(13), tooFew);
        // Another parent may name other judges: it is not the disputed one's.
        EpochRewardsBase.Posted memory forged = copy(parent);
        forged.outcome.nextDisputeCommittee = committeeHash();
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.NotOnRecord.selector, 0));
        rewards.resolve(forged, p, o, bits(5), byMembers);
        // Not even they may grant more than the cap.
        o.cumulativeTotal = EMISSION + DELIVERY + 1;
        bytes memory greedy = judged(parent, o, bits(14));
        vm.expectRevert(
            abi.encodeWithSelector(EpochRewardsBase.AboveCap.selector, EMISSION + DELIVERY + 1, EMISSION + DELIVERY)
        );
        rewards.resolve(parent, p, o, bits(14), greedy);
    }

    function test_aSilentDisputeCommitteeLetsTheOutcomeFall() public {
        EpochRewardsBase.Posted memory parent = tip;
        EpochRewardsBase.Posted memory p = postNext(keccak256("r"), 0);
        EpochRewardsBase.Posted memory later = postNext(keccak256("s"), 0);
        vm.prank(stranger);
        rewards.dispute(p);
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.TooEarly.selector, block.timestamp + RESOLVE));
        rewards.lapse(1);
        vm.warp(block.timestamp + RESOLVE);
        rewards.lapse(1);
        vm.assertEq(rewards.credits(stranger), BOND, "the bond comes back");
        vm.assertEq(rewards.statusAt(later.sequence), 0, "later ones fall");
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.WrongStatus.selector, 1, 3));
        rewards.finalize(p);
        bytes memory packed = packPost(parent, p.outcome, bits(5));
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.AlreadyPosted.selector, 1));
        rewards.post(packed);
        packed = packPost(p, later.outcome, bits(5));
        vm.expectRevert(abi.encodeWithSelector(EpochRewardsBase.WrongStatus.selector, 1, 3));
        rewards.post(packed);
        EpochRewardsBase.Posted memory right = resolve(parent, p, keccak256("right"));
        vm.assertEq(rewards.credits(stranger), BOND, "no second bond");
        rewards.finalize(right);
        vm.assertEq(rewards.rewardRoot(), keccak256("right"), "root");
    }

    function test_afterALapseTheGovernorMayHelp() public {
        finalize(postNext(keccak256("q"), 0));
        EpochRewardsBase.Posted memory last = tip;
        EpochRewardsBase.Posted memory p = postNext(keccak256("r"), 0);
        vm.prank(stranger);
        rewards.dispute(p);
        vm.warp(block.timestamp + RESOLVE);
        rewards.lapse(2);
        vm.warp(block.timestamp + RESET);
        vm.prank(admin);
        rewards.resetCommittees(last, committeeHash(), judgesHash());
        vm.assertEq(rewards.statusAt(2), 0, "the place is free");
    }

    // ---- helpers ----

    function resolve(EpochRewardsBase.Posted memory parent, EpochRewardsBase.Posted memory wrong, bytes32 root)
        private
        returns (EpochRewardsBase.Posted memory right)
    {
        right = copy(wrong);
        right.outcome.rewardRoot = root;
        bytes memory signatures = judged(parent, right.outcome, bits(14));
        rewards.resolve(parent, wrong, right.outcome, bits(14), signatures);
        right.postedAt = uint64(block.timestamp);
        right.signers = bits(14);
    }

    function copy(EpochRewardsBase.Posted memory p) private pure returns (EpochRewardsBase.Posted memory) {
        return abi.decode(abi.encode(p), (EpochRewardsBase.Posted));
    }

    function refusedPost(EpochRewardsBase.Outcome memory o, bytes memory why) private {
        bytes memory packed = packPost(tip, o, bits(5));
        vm.expectRevert(why);
        rewards.post(packed);
    }

    function refused(bytes memory packed) private {
        refused(packed, EpochRewardsBase.NotOnRecord.selector);
    }

    function refused(bytes memory packed, bytes4 why) private {
        (bool ok, bytes memory answer) = address(rewards).call(abi.encodeCall(rewards.post, (packed)));
        vm.assertFalse(ok, "refused");
        vm.assertTrue(bytes4(answer) == why, "why");
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EpochRewards} from "../../src/EpochRewards.sol";
import {EpochRewardsBase} from "../../src/EpochRewardsBase.sol";
import {Base} from "./Base.sol";
import {Tree} from "./Tree.sol";

/// A network with epochs: committees whose keys the tests hold, and outcomes signed by them.
abstract contract RewardsBase is Base {
    uint64 internal constant EPOCH = 15 minutes;
    uint64 internal constant DISPUTE = 3 days;
    uint64 internal constant RESOLVE = 2 days;
    uint64 internal constant RESET = 7 days;
    uint64 internal constant VESTING = 180 days;
    uint128 internal constant EMISSION = 1000e18;
    uint128 internal constant DELIVERY = 100e18;
    uint128 internal constant BOND = 500e18;
    uint128 internal constant BOUNTY = 200e18;
    uint128 internal constant SIGNER_PENALTY = 100e18;
    /// Epochs are counted from the unix epoch; this one has just ended when the tests begin.
    uint64 internal constant FIRST = uint64(START / EPOCH) - 1;
    uint256 internal constant MEMBERS = 7;
    uint256 internal constant JUDGES = 21;
    uint256 internal constant MEMBER_KEY = 0xc0ffee;
    uint256 internal constant JUDGE_KEY = 0x10d6e;

    EpochRewards internal rewards;
    /// The last outcome that was posted.
    EpochRewardsBase.Posted internal tip;

    function setUp() public virtual override {
        super.setUp();
        rewards = new EpochRewards(config());
        bytes32 role = registry.SLASHER_ROLE();
        vm.prank(admin);
        registry.grantRole(role, address(rewards));
        vm.prank(treasury);
        token.approve(address(rewards), type(uint256).max);
        vm.prank(treasury);
        rewards.fund(1_000_000e18, 10_000e18, 1_000e18);
        vm.prank(stranger);
        token.approve(address(rewards), type(uint256).max);
        bootstrap(FIRST - 1);
    }

    function config() internal virtual returns (EpochRewardsBase.Config memory c) {
        c.token = address(token);
        c.registry = address(registry);
        c.admin = admin;
        c.epochSeconds = EPOCH;
        c.startEpoch = FIRST;
        c.emissionPerEpoch = EMISSION;
        c.halvingEpochs = 1000;
        c.deliveryPerEpoch = DELIVERY;
        c.disputeWindow = DISPUTE;
        c.resolveWindow = RESOLVE;
        c.resetAfter = RESET;
        c.disputeBond = BOND;
        c.disputeReward = BOUNTY;
        c.signerPenalty = SIGNER_PENALTY;
        c.immediateBps = 3000;
        c.vestingPeriod = VESTING;
        c.ringSize = 8;
    }

    function bootstrap(uint64 lastEpoch) internal {
        bytes32 committee = committeeHash();
        bytes32 judges = judgesHash();
        vm.prank(admin);
        rewards.bootstrap(lastEpoch, committee, judges);
        delete tip;
        tip.outcome.lastEpoch = lastEpoch;
        tip.outcome.nextCommittee = committee;
        tip.outcome.nextDisputeCommittee = judges;
        tip.postedAt = uint64(block.timestamp);
    }

    // ---- committees ----

    function list(uint256 key, uint256 size) internal pure returns (address[] memory members) {
        members = new address[](size);
        for (uint256 i = 0; i < size; ++i) {
            members[i] = vm.addr(key + i);
        }
    }

    function committeeHash() internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(list(MEMBER_KEY, MEMBERS)));
    }

    function judgesHash() internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(list(JUDGE_KEY, JUDGES)));
    }

    /// Signatures of the members whose bits are set, addresses of the others.
    function pack(uint256 key, uint256 size, uint32 signers, bytes32 digest) internal pure returns (bytes memory all) {
        for (uint256 i = 0; i < size; ++i) {
            if ((signers >> i) & 1 == 0) {
                all = abi.encodePacked(all, vm.addr(key + i));
            } else {
                (bytes32 r, bytes32 vs) = compact(key + i, digest);
                all = abi.encodePacked(all, r, vs);
            }
        }
    }

    function bits(uint256 count) internal pure returns (uint32) {
        return uint32((1 << count) - 1);
    }

    // ---- outcomes ----

    /// What follows the tip: `epochs` more, all of the emission granted, the given roots.
    function following(uint64 epochs, bytes32 rewardRoot, bytes32 slashRoot)
        internal
        view
        returns (EpochRewardsBase.Outcome memory o)
    {
        o.firstEpoch = tip.outcome.lastEpoch + 1;
        o.lastEpoch = tip.outcome.lastEpoch + epochs;
        o.rewardRoot = rewardRoot;
        o.cumulativeTotal = tip.outcome.cumulativeTotal + uint128(rewards.emission(o.firstEpoch, o.lastEpoch));
        o.slashRoot = slashRoot;
        o.dataHash = keccak256(abi.encode("data", o.lastEpoch));
        o.nextCommittee = committeeHash();
        o.nextDisputeCommittee = judgesHash();
    }

    function digestOf(EpochRewardsBase.Posted memory p) internal view returns (bytes32) {
        return rewards.outcomeDigest(p.parent, p.outcome);
    }

    /// What {EpochRewards-post} takes for an outcome after another.
    function packPost(EpochRewardsBase.Posted memory prev, EpochRewardsBase.Outcome memory o, uint32 signers)
        internal
        view
        returns (bytes memory)
    {
        return packPost(prev, o, signers, signed(prev, o, signers));
    }

    function packPost(
        EpochRewardsBase.Posted memory prev,
        EpochRewardsBase.Outcome memory o,
        uint32 signers,
        bytes memory signatures
    ) internal view returns (bytes memory) {
        bytes memory head = abi.encodePacked(
            digestOf(prev), prev.sequence, prev.postedAt, prev.outcome.cumulativeTotal, prev.signers, signers
        );
        bytes memory span = abi.encodePacked(o.firstEpoch, o.lastEpoch, o.cumulativeTotal);
        bytes memory roots =
            abi.encodePacked(o.rewardRoot, o.slashRoot, o.dataHash, o.nextCommittee, o.nextDisputeCommittee);
        return bytes.concat(head, span, roots, signatures);
    }

    function signed(EpochRewardsBase.Posted memory parent, EpochRewardsBase.Outcome memory o, uint32 signers)
        internal
        view
        returns (bytes memory)
    {
        return pack(MEMBER_KEY, MEMBERS, signers, rewards.signingDigest(digestOf(parent), o));
    }

    function judged(EpochRewardsBase.Posted memory parent, EpochRewardsBase.Outcome memory o, uint32 signers)
        internal
        view
        returns (bytes memory)
    {
        return pack(JUDGE_KEY, JUDGES, signers, rewards.signingDigest(digestOf(parent), o));
    }

    /// Posts after the tip, signed by the first five, and makes it the tip.
    function post(EpochRewardsBase.Outcome memory o) internal returns (EpochRewardsBase.Posted memory) {
        rewards.post(packPost(tip, o, bits(5)));
        bytes32 parent = digestOf(tip);
        tip.sequence += 1;
        tip.parent = parent;
        tip.outcome = o;
        tip.postedAt = uint64(block.timestamp);
        tip.signers = bits(5);
        return tip;
    }

    /// Lets the given epochs end, and posts their outcome.
    function postNext(bytes32 rewardRoot, bytes32 slashRoot) internal returns (EpochRewardsBase.Posted memory) {
        pass(1);
        return post(following(1, rewardRoot, slashRoot));
    }

    function pass(uint64 epochs) internal {
        uint256 over = (uint256(tip.outcome.lastEpoch) + epochs + 1) * EPOCH;
        if (block.timestamp < over) vm.warp(over);
    }

    function finalize(EpochRewardsBase.Posted memory p) internal {
        if (block.timestamp < p.postedAt + DISPUTE) vm.warp(p.postedAt + DISPUTE);
        rewards.finalize(p);
    }

    // ---- leaves ----

    function reward(uint8 kind, bytes32 key, address who, uint128 cumulative)
        internal
        pure
        returns (EpochRewardsBase.Reward memory)
    {
        return EpochRewardsBase.Reward({kind: kind, key: key, account: who, cumulative: cumulative});
    }

    function leafOf(EpochRewardsBase.Reward memory r) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(r.kind, r.key, r.account, r.cumulative))));
    }

    function leafOf(EpochRewardsBase.Slash memory s) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(s.lastEpoch, s.nodeKey, s.amount, s.evidence))));
    }

    /// A root that this leaf is `levels` below of, and the way up.
    function deep(bytes32 leaf, uint256 levels) internal pure returns (bytes32 root, bytes32[] memory proof) {
        proof = new bytes32[](levels);
        root = leaf;
        for (uint256 i = 0; i < levels; ++i) {
            proof[i] = keccak256(abi.encode("sibling", i));
            root = Tree.pair(root, proof[i]);
        }
    }
}

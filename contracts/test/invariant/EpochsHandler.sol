// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EpochRewards} from "../../src/EpochRewards.sol";
import {EpochRewardsBase} from "../../src/EpochRewardsBase.sol";
import {MusterToken} from "../../src/MusterToken.sol";
import {Registry} from "../../src/Registry.sol";
import {RewardsBase} from "../utils/RewardsBase.sol";
import {Tree} from "../utils/Tree.sol";

/// Random deeds of committees, claimants, disputers and slashers.
contract EpochsHandler is RewardsBase {
    uint256 public constant NODES = 4;

    uint256 public paid;
    uint256 public bonds;
    uint256 public slashedTwice;
    /// What should not have worked, and did.
    string public wrong;
    mapping(uint256 => uint256) public paidTo;
    mapping(uint256 => uint128) public granted;

    /// Posted and not final, in their order, with what each of them grants.
    EpochRewardsBase.Posted[] private chain;
    mapping(bytes32 root => uint128[NODES]) private trees;
    mapping(bytes32 root => EpochRewardsBase.Slash) private slashes;
    bytes32 private liveRoot;
    EpochRewardsBase.Slash[] private due;
    uint256 private salt;
    uint256 private clock;

    constructor(MusterToken token_, Registry registry_, EpochRewards rewards_, EpochRewardsBase.Posted memory genesis) {
        token = token_;
        registry = registry_;
        rewards = rewards_;
        chain.push(genesis);
        clock = block.timestamp;
    }

    function setUp() public pure override {}

    function keyAt(uint256 i) public pure returns (bytes32) {
        return keccak256(abi.encode("worker", i % NODES));
    }

    function ownerAt(uint256 i) public pure returns (address) {
        return address(uint160(0xf0000 + i % NODES));
    }

    // ---- deeds ----

    function post(uint256 seed, bool withSlash) external {
        if (chain.length >= 7) return;
        EpochRewardsBase.Posted memory last = chain[chain.length - 1];
        if (rewards.statusAt(last.sequence) == 3) return;
        tip = last;
        wait(uint32(EPOCH));
        pass(1);
        clock = block.timestamp;
        EpochRewardsBase.Posted memory p = post(outcome(last, seed, withSlash));
        chain.push(p);
    }

    function finalizeNext() external {
        if (chain.length < 2) return;
        EpochRewardsBase.Posted memory p = chain[1];
        uint8 status = rewards.statusAt(p.sequence);
        bool ripe = status == 4 || status == 5 || (status == 1 && block.timestamp >= p.postedAt + DISPUTE);
        (bool ok,) = address(rewards).call(abi.encodeCall(rewards.finalize, (p)));
        if (ok != ripe) wrong = ok ? "final before its time" : "not final in time";
        if (!ok) return;
        for (uint256 i = 0; i + 1 < chain.length; ++i) {
            chain[i] = chain[i + 1];
        }
        chain.pop();
        liveRoot = p.outcome.rewardRoot;
        for (uint256 i = 0; i < NODES; ++i) {
            granted[i] = trees[liveRoot][i];
        }
        if (p.outcome.slashRoot != 0) due.push(slashes[p.outcome.slashRoot]);
    }

    function dispute(uint256 which) external {
        if (chain.length < 2) return;
        EpochRewardsBase.Posted memory p = chain[1 + which % (chain.length - 1)];
        if (rewards.statusAt(p.sequence) != 1) return;
        vm.prank(stranger);
        rewards.dispute(p);
        bonds += BOND;
    }

    function resolve(uint256 which, uint256 seed, bool same) external {
        if (chain.length < 2) return;
        uint256 at = 1 + which % (chain.length - 1);
        EpochRewardsBase.Posted memory p = chain[at];
        uint8 status = rewards.statusAt(p.sequence);
        if (status != 2 && status != 3) return;
        EpochRewardsBase.Posted memory parent = chain[at - 1];
        tip = parent;
        EpochRewardsBase.Outcome memory o = same ? p.outcome : outcome(parent, seed, false);
        rewards.resolve(parent, p, o, bits(14), judged(parent, o, bits(14)));
        if (status == 2) bonds -= BOND;
        if (digestOf(p) == rewards.outcomeDigest(p.parent, o)) return;
        drop(at);
        p.outcome = o;
        p.postedAt = uint64(block.timestamp);
        p.signers = bits(14);
        chain[at] = p;
    }

    function lapse(uint256 which) external {
        if (chain.length < 2) return;
        uint256 at = 1 + which % (chain.length - 1);
        uint64 sequence = chain[at].sequence;
        if (rewards.statusAt(sequence) != 2) return;
        (, uint64 until) = rewards.disputes(sequence);
        if (block.timestamp < until) wait(uint32(until - block.timestamp));
        rewards.lapse(sequence);
        bonds -= BOND;
        drop(at);
    }

    function claim(uint256 which) external {
        if (liveRoot == 0) return;
        which %= NODES;
        (EpochRewardsBase.Reward memory r, bytes32[] memory proof) = leafAt(which);
        uint256 before = token.balanceOf(r.account);
        try rewards.claim(r, proof) {} catch {}
        count(which, token.balanceOf(r.account) - before);
    }

    function release(uint256 which) external {
        which %= NODES;
        uint256 before = token.balanceOf(ownerAt(which));
        try rewards.release(1, keyAt(which), ownerAt(which)) {} catch {}
        count(which, token.balanceOf(ownerAt(which)) - before);
    }

    function slash(uint256 which, bool withReward) external {
        if (due.length == 0) return;
        EpochRewardsBase.Slash memory s = due[which % due.length];
        uint256 node = 0;
        while (keyAt(node) != s.nodeKey) ++node;
        bytes32[] memory none = new bytes32[](0);
        uint256 pool = token.balanceOf(penaltyPool);
        uint256 penalties = registry.penalties();
        if (withReward) {
            (EpochRewardsBase.Reward memory r, bytes32[] memory proof) = leafAt(node);
            try rewards.slashWithReward(s, none, r, proof) {} catch {}
        } else {
            try rewards.slash(s, none) {} catch {}
        }
        uint256 seized = token.balanceOf(penaltyPool) - pool;
        count(node, seized);
        taken[s.evidence] += seized + registry.penalties() - penalties;
        if (taken[s.evidence] > s.amount) wrong = "slashed more than once";
    }

    function withdraw(bool pool) external {
        address who = pool ? penaltyPool : stranger;
        if (rewards.credits(who) == 0) return;
        uint256 before = token.balanceOf(penaltyPool);
        rewards.withdrawCredit(who);
        before; // bonds that were lost lie in the pool beside what was slashed
    }

    function wait(uint32 time) public {
        clock += time % 4 days;
        vm.warp(clock);
    }

    // ---- helpers ----

    mapping(bytes32 evidence => uint256) private taken;

    function count(uint256 which, uint256 amount) private {
        paid += amount;
        paidTo[which] += amount;
    }

    function drop(uint256 at) private {
        while (chain.length > at + 1) {
            if (rewards.statusAt(chain[chain.length - 1].sequence) != 0) wrong = "a later one stands";
            chain.pop();
        }
        // Their disputes fell with them, and gave their bonds back.
        bonds = 0;
        for (uint256 i = 1; i < chain.length; ++i) {
            if (rewards.statusAt(chain[i].sequence) == 2) bonds += BOND;
        }
    }

    /// What follows `last`: each node earned a part of the emission.
    function outcome(EpochRewardsBase.Posted memory last, uint256 seed, bool withSlash)
        private
        returns (EpochRewardsBase.Outcome memory o)
    {
        uint128[NODES] memory amounts = trees[last.outcome.rewardRoot];
        bytes32[] memory leaves = new bytes32[](NODES);
        uint128 sum = 0;
        for (uint256 i = 0; i < NODES; ++i) {
            amounts[i] += uint128(uint256(keccak256(abi.encode(seed, i, ++salt))) % (EMISSION / NODES));
            leaves[i] = leafOf(reward(1, keyAt(i), ownerAt(i), amounts[i]));
            sum += amounts[i];
        }
        bytes32 root = Tree.root(leaves);
        trees[root] = amounts;
        tip = last;
        bytes32 slashRoot = 0;
        if (withSlash) {
            EpochRewardsBase.Slash memory s = EpochRewardsBase.Slash({
                lastEpoch: last.outcome.lastEpoch + 1,
                nodeKey: keyAt(seed),
                amount: uint128(1 + seed % MIN_STAKE),
                evidence: keccak256(abi.encode("evidence", ++salt))
            });
            slashRoot = leafOf(s);
            slashes[slashRoot] = s;
        }
        o = following(1, root, slashRoot);
        o.cumulativeTotal = sum;
    }

    function leafAt(uint256 which) private view returns (EpochRewardsBase.Reward memory r, bytes32[] memory proof) {
        bytes32[] memory leaves = new bytes32[](NODES);
        for (uint256 i = 0; i < NODES; ++i) {
            leaves[i] = leafOf(reward(1, keyAt(i), ownerAt(i), trees[liveRoot][i]));
        }
        r = reward(1, keyAt(which), ownerAt(which), trees[liveRoot][which]);
        proof = Tree.proof(leaves, which);
    }
}

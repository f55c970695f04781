// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {EpochRewards} from "../../src/EpochRewards.sol";
import {EpochRewardsBase} from "../../src/EpochRewardsBase.sol";
import {INodeRegistry} from "../../src/INodeRegistry.sol";
import {Vesting} from "../../src/Vesting.sol";
import {Vm} from "../utils/Vm.sol";

/// A token with nothing but balances.
contract RewardToken is ERC20 {
    constructor(address to) ERC20("", "") {
        _mint(to, type(uint128).max);
    }
}

/// A registry whose nodes have no stake, so that all a slash takes comes out of rewards.
contract NoStake is INodeRegistry {
    function identity(bytes32) external pure returns (address, uint8, uint8) {
        return (address(0), 0, 0);
    }

    function penaltyPool() external pure returns (address) {
        return address(0xbeef);
    }

    function evidenceUsed(bytes32, bytes32) external pure returns (bool) {
        return false;
    }

    function slash(bytes32, uint128, bytes32) external pure returns (uint128) {
        return 0;
    }
}

/// The rewards, with a door through which a proof puts an account into any state, and any leaf under the roots.
contract OpenRewards is EpochRewards {
    constructor(Config memory c) EpochRewards(c) {}

    function put(bytes32 id, uint256 word, uint96 seized, bytes32 root, uint64 epoch, bytes32 slashRoot) external {
        _accounts[id].head = word;
        seizedUnclaimed[id] = seized;
        rewardRoot = root;
        slashRoots[epoch] = slashRoot;
    }

    function head(bytes32 id) external view returns (Vesting.Head memory) {
        return Vesting.unpack(_accounts[id].head);
    }

    function vestingPart(uint96 amount) external view returns (uint96) {
        return _vestingPart(amount);
    }
}

/// @title A leaf can never be paid more than its cumulative amount
/// @notice By induction. Let `out` be what a reward has cost so far: what was paid at once, what was released, and what
/// was seized. From any state in which no more is released than vests, and no more seized than claimed, each step with
/// any arguments pays exactly what `out` grows by, leaves a state of that kind, and an `out` of at most what is claimed;
/// and what is claimed is at most what the leaf grants, or what was claimed before.
contract RewardProof {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    bytes32 private constant NODE = keccak256("node");
    address private constant ACCOUNT = address(0xacc);

    RewardToken private token;
    OpenRewards private rewards;
    bytes32 private id;

    function setUp() public {
        vm.warp(1_800_000_000);
        token = new RewardToken(address(this));
        EpochRewardsBase.Config memory c;
        c.token = address(token);
        c.registry = address(new NoStake());
        c.admin = address(0xad);
        c.epochSeconds = 900;
        c.halvingEpochs = 1000;
        c.disputeWindow = 1;
        c.resolveWindow = 1;
        c.resetAfter = 1;
        c.disputeBond = 1;
        c.immediateBps = 3000;
        c.vestingPeriod = 180 days;
        c.ringSize = 8;
        rewards = new OpenRewards(c);
        token.transfer(address(rewards), type(uint128).max / 2);
        id = rewards.rewardId(1, NODE, ACCOUNT);
        vm.warp(1_900_000_000);
    }

    function check_claim(uint96 claimed, uint96 released, uint96 seized, uint128 cumulative) public {
        EpochRewardsBase.Reward memory leaf = reward(cumulative);
        uint256 before = begin(claimed, released, seized, leaf);
        uint256 held = token.balanceOf(ACCOUNT);
        try rewards.claim(leaf, new bytes32[](0)) {} catch {}
        end(before, token.balanceOf(ACCOUNT) - held, claimed, cumulative);
    }

    function check_release(uint96 claimed, uint96 released, uint96 seized) public {
        uint256 before = begin(claimed, released, seized, reward(0));
        uint256 held = token.balanceOf(ACCOUNT);
        try rewards.release(1, NODE, ACCOUNT) {} catch {}
        end(before, token.balanceOf(ACCOUNT) - held, claimed, 0);
    }

    function check_seize(uint96 claimed, uint96 released, uint96 seized, uint128 cumulative, uint128 amount) public {
        EpochRewardsBase.Reward memory leaf = reward(cumulative);
        EpochRewardsBase.Slash memory s =
            EpochRewardsBase.Slash({lastEpoch: 7, nodeKey: NODE, amount: amount, evidence: "e"});
        uint256 before = begin(claimed, released, seized, leaf, s);
        try rewards.slashWithReward(s, new bytes32[](0), leaf, new bytes32[](0)) {} catch {}
        uint256 taken = token.balanceOf(address(0xbeef));
        end(before, taken, claimed, cumulative);
        assert(taken <= amount);
    }

    // ---- helpers ----

    function reward(uint128 cumulative) private pure returns (EpochRewardsBase.Reward memory) {
        return EpochRewardsBase.Reward({kind: 1, key: NODE, account: ACCOUNT, cumulative: cumulative});
    }

    function begin(uint96 claimed, uint96 released, uint96 seized, EpochRewardsBase.Reward memory leaf)
        private
        returns (uint256)
    {
        EpochRewardsBase.Slash memory none;
        return begin(claimed, released, seized, leaf, none);
    }

    function begin(
        uint96 claimed,
        uint96 released,
        uint96 seized,
        EpochRewardsBase.Reward memory leaf,
        EpochRewardsBase.Slash memory s
    ) private returns (uint256) {
        vm.assume(seized <= claimed);
        vm.assume(released <= rewards.vestingPart(claimed - seized));
        Vesting.Head memory h =
            Vesting.Head({claimed: claimed, released: released, lastAt: 1000, count: 1, seized: seized != 0});
        rewards.put(id, Vesting.pack(h), seized, leafOf(abi.encode(leaf)), 7, leafOf(abi.encode(s)));
        return out();
    }

    function leafOf(bytes memory encoded) private pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(encoded)));
    }

    function end(uint256 before, uint256 moved, uint96 claimed, uint128 cumulative) private view {
        Vesting.Head memory h = rewards.head(id);
        uint96 seized = rewards.seizedUnclaimed(id);
        assert(seized <= h.claimed);
        assert(h.released <= rewards.vestingPart(h.claimed - seized));
        uint256 after_ = out();
        assert(after_ - before == moved);
        assert(after_ <= h.claimed);
        assert(h.claimed == claimed || h.claimed <= cumulative);
    }

    /// What the reward has cost so far.
    function out() private view returns (uint256) {
        Vesting.Head memory h = rewards.head(id);
        uint96 seized = rewards.seizedUnclaimed(id);
        uint96 counted = h.claimed - seized;
        return uint256(counted - rewards.vestingPart(counted)) + h.released + seized;
    }
}

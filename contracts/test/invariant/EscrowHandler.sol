// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {LeaseEscrow} from "../../src/LeaseEscrow.sol";
import {MusterToken} from "../../src/MusterToken.sol";
import {Base} from "../utils/Base.sol";

/// Random deeds of consumers, payees and strangers. What must work is not allowed to revert; what must not work is
/// tried, and has to.
contract EscrowHandler is Base {
    uint256 public constant CONSUMERS = 3;
    uint256 public constant PAYEES = 2;

    bytes32[] public leases;
    /// The last state seen of each lease, to compare with.
    mapping(bytes32 => uint128) public redeemedBefore;
    mapping(bytes32 => bytes32) public closedAs;
    mapping(address => uint256) public claimed;
    uint256 public networkClaimed;
    /// What should not have worked, and did.
    string public wrong;

    uint64 private clock;

    constructor(MusterToken token_, LeaseEscrow escrow_) {
        token = token_;
        escrow = escrow_;
        clock = uint64(block.timestamp);
    }

    function setUp() public pure override {}

    function count() external view returns (uint256) {
        return leases.length;
    }

    function consumerAt(uint256 i) public pure returns (address) {
        return address(uint160(0xc0000 + i % CONSUMERS));
    }

    function payeeAt(uint256 i) public pure returns (address) {
        return address(uint160(0xd0000 + i % PAYEES));
    }

    function containerAt(uint256 i) public pure returns (bytes32) {
        return keccak256(abi.encode("container", i % PAYEES));
    }

    // ---- deeds ----

    function open(uint256 who, uint256 where, uint128 deposit) external {
        if (escrow.paused() || leases.length >= 16) return;
        LeaseEscrow.OpenParams[] memory batch = new LeaseEscrow.OpenParams[](1 + where % 2);
        for (uint256 i = 0; i < batch.length; ++i) {
            batch[i] = params(bytes32(leases.length + i), uint128(bound(deposit, 1, 1000e18)));
            batch[i].container = containerAt(where / 2);
            batch[i].maxSeconds = uint64(1 + where % 5 days);
        }
        vm.prank(consumerAt(who));
        bytes32[] memory ids = escrow.openBatch(batch);
        for (uint256 i = 0; i < ids.length; ++i) {
            leases.push(ids[i]);
        }
    }

    function topUp(uint256 which, uint128 amount) external {
        (bytes32 id, LeaseEscrow.Lease memory l) = pick(which);
        if (l.status != 1 || escrow.paused()) return;
        vm.prank(l.consumer);
        escrow.topUp(id, uint128(bound(amount, 1, 100e18)));
    }

    function redeem(uint256 which, uint128 amount) external {
        (bytes32 id, LeaseEscrow.Lease memory l) = pick(which);
        if (!takesVouchers(id, l) || l.redeemed == l.deposit) return;
        redeem(id, uint128(bound(amount, l.redeemed + 1, l.deposit)));
        note(id);
    }

    /// Below, equal or above: none of them may pass; nor any voucher at all when the lease takes none.
    function redeemWrongly(uint256 which, uint128 amount) external {
        (bytes32 id, LeaseEscrow.Lease memory l) = pick(which);
        if (l.status == 0) return;
        if (takesVouchers(id, l)) {
            amount = uint128(
                amount % 2 == 0
                    ? bound(amount, 0, l.redeemed)
                    : bound(amount, uint256(l.deposit) + 1, type(uint128).max)
            );
        }
        (bytes32 r, bytes32 vs) = signBy(SESSION, id, amount, 7);
        try escrow.redeem(id, amount, 7, r, vs) {
            wrong = "a wrong voucher was redeemed";
        } catch {}
    }

    /// Three entries, good ones and bad ones, of whichever leases.
    function redeemBatch(uint256 a, uint256 b, uint128 amount) external {
        (bytes32 x,) = pick(a);
        (bytes32 y,) = pick(b);
        escrow.redeemBatch(bytes.concat(entry(x, amount % 2000e18), entry(y, amount % 1000e18), bare(x)));
        note(x);
        note(y);
    }

    function settleBatch(uint256 a, uint256 b, uint128 amount, uint256 who) external {
        (bytes32 x,) = pick(a);
        (bytes32 y,) = pick(b);
        bytes memory packed =
            bytes.concat(entry(x, amount % 2000e18), amount % 3 == 0 ? bare(y) : entry(y, amount % 900e18));
        vm.prank(payeeAt(who));
        escrow.settleBatch(packed);
        note(x);
        note(y);
    }

    function closeByConsumer(uint256 which) external {
        (bytes32 id, LeaseEscrow.Lease memory l) = pick(which);
        if (l.status != 1) return;
        vm.prank(which % 2 == 0 ? l.consumer : l.sessionKey);
        escrow.closeByConsumer(id);
    }

    function closeByContainer(uint256 which) external {
        (bytes32 id, LeaseEscrow.Lease memory l) = pick(which);
        if (l.status != 1 && l.status != 2) return;
        vm.prank(l.payee);
        escrow.closeByContainer(id);
        note(id);
    }

    function finalize(uint256 which) external {
        (bytes32 id, LeaseEscrow.Lease memory l) = pick(which);
        if (l.status == 0) return;
        uint256 window = escrow.termsOf(id).challengeWindow;
        bool ripe = l.status == 1
            ? block.timestamp >= l.openedAt + l.maxSeconds + window
            : l.status == 2 && block.timestamp >= l.closingAt + window;
        if (ripe) {
            escrow.finalize(id);
        } else {
            try escrow.finalize(id) {
                wrong = "finalized before its time";
            } catch {}
        }
        note(id);
    }

    function claim(uint256 who, uint256 entries) external {
        address payee = payeeAt(who);
        (uint256 due,) = escrow.claimable(payee);
        uint256 before = token.balanceOf(payee);
        if (due == 0) {
            try escrow.claimServiceFee(payee, 100) {
                wrong = "claimed what was not due";
            } catch {}
        } else {
            claimed[payee] += escrow.claimServiceFee(payee, 70 + entries % 8);
            if (token.balanceOf(payee) - before != due) wrong = "claimed another sum than was due";
        }
        if (escrow.networkFees() != 0) networkClaimed += escrow.claimNetworkFee();
    }

    function govern(uint16 fee, uint64 delay, uint64 window) external {
        vm.startPrank(admin);
        if (fee % 4 == 0) escrow.paused() ? escrow.unpause() : escrow.pause();
        else escrow.setTerms(fee % 3001, delay % 30 days, 1 + window % 3 days);
        vm.stopPrank();
    }

    function wait(uint32 time) external {
        clock += uint64(time % 2 days);
        vm.warp(clock);
    }

    // ---- helpers ----

    /// One of the leases; an unknown one now and then.
    function pick(uint256 which) private view returns (bytes32 id, LeaseEscrow.Lease memory l) {
        if (leases.length != 0 && which % 32 != 31) id = leases[which % leases.length];
        l = escrow.lease(id);
    }

    function takesVouchers(bytes32 id, LeaseEscrow.Lease memory l) private view returns (bool) {
        return l.status == 1 || (l.status == 2 && block.timestamp < l.closingAt + escrow.termsOf(id).challengeWindow);
    }

    function note(bytes32 id) private {
        LeaseEscrow.Lease memory l = escrow.lease(id);
        if (l.redeemed < redeemedBefore[id]) wrong = "redeemed fell";
        redeemedBefore[id] = l.redeemed;
        if (l.status != 3) return;
        bytes32 now_ = keccak256(abi.encode(l));
        if (closedAs[id] == 0) closedAs[id] = now_;
        else if (closedAs[id] != now_) wrong = "a closed lease changed";
    }
}

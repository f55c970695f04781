// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IContainerRegistry} from "../../src/IContainerRegistry.sol";
import {LeaseEscrow} from "../../src/LeaseEscrow.sol";
import {Vm} from "../utils/Vm.sol";

/// A token with nothing but balances.
contract PlainToken is ERC20 {
    constructor(address a, address b) ERC20("", "") {
        _mint(a, type(uint128).max);
        _mint(b, type(uint128).max);
    }
}

/// Every key is an active Container's, of one owner.
contract OneOwner is IContainerRegistry {
    address private immutable OWNER;

    constructor(address owner) {
        OWNER = owner;
    }

    function activeContainerOwner(bytes32) external view returns (address) {
        return OWNER;
    }
}

/// The escrow, with a door through which a proof puts a lease into any state.
contract OpenEscrow is LeaseEscrow {
    constructor(address token_, address registry_)
        LeaseEscrow(token_, registry_, address(0xad), address(0xfee), 2000, 45 days, 3 days)
    {}

    function put(bytes32 id, Stored calldata s) external {
        _leases[id] = s;
    }
}

/// @title A lease can never pay out more than its deposit
/// @notice Proven by induction, with symbolic values for everything a caller or the history could choose. Let a lease
/// be worth `deposit - redeemed` while it lives, and nothing once it is closed or before it is opened. Each check
/// starts from any state with `redeemed <= deposit`, takes one step with any arguments from any caller, and shows
/// that what the lease lost in worth is exactly what was paid out on its account (to the payee, the network and the
/// consumer), less what was paid in; and that `redeemed <= deposit` still holds, and `redeemed` has not fallen. A
/// worth never being negative, the sum of all payments over a lease's life is at most the sum of its deposits.
/// A revert of the proof itself would end a path unseen: test.sh counts each panic as a failure.
contract LeaseProof {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    address private constant CONSUMER = address(0xc0);
    address private constant PAYEE = address(0xda);
    address private constant ADMIN = address(0xad);
    address private constant DONOR = address(0xd0);
    bytes32 private constant ID = keccak256("a lease");

    ERC20 private token;
    OpenEscrow private escrow;

    /// What is on each account before a step.
    struct Books {
        uint256 worth;
        uint256 held;
        uint256 owed;
        uint256 refunded;
        uint128 redeemed;
    }

    function setUp() public {
        // Late enough for a lease to be over: its own times are symbolic, before and after this one.
        vm.warp(1_800_000_000);
        token = new PlainToken(address(this), DONOR);
        escrow = new OpenEscrow(address(token), address(new OneOwner(PAYEE)));
        // The escrow holds much more than this lease's money, for others.
        token.transfer(address(escrow), type(uint128).max / 2);
        vm.prank(DONOR);
        token.approve(address(escrow), type(uint256).max);
    }

    function check_redeem(LeaseEscrow.Stored calldata s, uint16 bps, uint128 amount, uint64 asOf, bytes32 r, bytes32 vs)
        public
    {
        Books memory before = begin(s, bps);
        try escrow.redeem(ID, amount, asOf, r, vs) {} catch {}
        end(before, 0);
    }

    function check_redeemBatch(
        LeaseEscrow.Stored calldata s,
        uint16 bps,
        uint128 amount,
        uint64 asOf,
        bytes32 r,
        bytes32 vs
    ) public {
        Books memory before = begin(s, bps);
        try escrow.redeemBatch(abi.encodePacked(ID, amount, asOf, r, vs)) {} catch {}
        end(before, 0);
    }

    function check_settleBatch(
        LeaseEscrow.Stored calldata s,
        uint16 bps,
        address caller,
        uint128 amount,
        uint64 asOf,
        bytes32 r,
        bytes32 vs
    ) public {
        Books memory before = begin(s, bps);
        vm.prank(caller);
        try escrow.settleBatch(abi.encodePacked(ID, amount, asOf, r, vs)) {} catch {}
        end(before, 0);
    }

    function check_closeByContainer(LeaseEscrow.Stored calldata s, uint16 bps, address caller) public {
        Books memory before = begin(s, bps);
        vm.prank(caller);
        try escrow.closeByContainer(ID) {} catch {}
        end(before, 0);
    }

    function check_closeByConsumer(LeaseEscrow.Stored calldata s, uint16 bps, address caller) public {
        Books memory before = begin(s, bps);
        vm.prank(caller);
        try escrow.closeByConsumer(ID) {} catch {}
        end(before, 0);
    }

    function check_finalize(LeaseEscrow.Stored calldata s, uint16 bps, address caller) public {
        Books memory before = begin(s, bps);
        vm.prank(caller);
        try escrow.finalize(ID) {} catch {}
        end(before, 0);
    }

    function check_topUp(LeaseEscrow.Stored calldata s, uint16 bps, uint128 amount) public {
        Books memory before = begin(s, bps);
        uint256 purse = token.balanceOf(DONOR);
        vm.prank(DONOR);
        try escrow.topUp(ID, amount) {} catch {}
        end(before, purse - token.balanceOf(DONOR));
    }

    /// The beginning of the induction: a lease that opens is worth its deposit; and one that exists cannot be opened.
    function check_open(LeaseEscrow.Stored calldata s, LeaseEscrow.OpenParams calldata p) public {
        bytes32 id = escrow.leaseIdOf(DONOR, p.salt);
        vm.assume(s.redeemed <= s.deposit);
        escrow.put(id, s);
        uint256 worth = worthOf(id);
        uint256 purse = token.balanceOf(DONOR);
        vm.prank(DONOR);
        try escrow.open(p) {
            assert(worth == 0);
            assert(worthOf(id) == p.deposit);
            assert(escrow.lease(id).redeemed == 0);
            assert(purse - token.balanceOf(DONOR) == p.deposit);
            assert(s.sessionKey == address(0));
        } catch {
            assert(worthOf(id) == worth);
        }
    }

    // ---- the two sides of a step ----

    /// Puts the lease into any state whatever, with any fee that can be set. Only names are fixed: those of the two
    /// who are paid, so that their accounts can be watched, and that of the terms that were just set.
    function begin(LeaseEscrow.Stored memory s, uint16 bps) private returns (Books memory) {
        vm.assume(s.redeemed <= s.deposit);
        vm.prank(ADMIN);
        escrow.setTerms(bps, 45 days, 3 days);
        s.consumer = CONSUMER;
        s.payee = PAYEE;
        s.termsId = 1;
        escrow.put(ID, s);
        return books();
    }

    function end(Books memory before, uint256 paidIn) private view {
        assert(escrow.lease(ID).redeemed <= escrow.lease(ID).deposit);
        Books memory after_ = books();
        assert(after_.redeemed >= before.redeemed);
        // Every term is far below 2^256, so that nothing wraps; a checked sum would only add paths to the proof.
        unchecked {
            // What the lease lost in worth is what was paid out on its account.
            uint256 lost = before.worth - after_.worth;
            uint256 gained = (after_.owed - before.owed) + (after_.refunded - before.refunded);
            assert(lost + paidIn == gained);
            // Nothing leaves the escrow but to the consumer.
            assert(before.held + paidIn - after_.held == after_.refunded - before.refunded);
        }
    }

    function books() private view returns (Books memory b) {
        (uint256 due, uint256 pending) = escrow.claimable(PAYEE);
        b.worth = worthOf(ID);
        b.held = token.balanceOf(address(escrow));
        b.refunded = token.balanceOf(CONSUMER);
        b.redeemed = escrow.lease(ID).redeemed;
        unchecked {
            b.owed = due + pending + escrow.networkFees() + escrow.refundsOwed(CONSUMER);
        }
    }

    /// Called where `redeemed <= deposit` was assumed or asserted.
    function worthOf(bytes32 id) private view returns (uint256) {
        LeaseEscrow.Lease memory l = escrow.lease(id);
        unchecked {
            return l.status == 1 || l.status == 2 ? l.deposit - l.redeemed : 0;
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {LeaseEscrow} from "../../src/LeaseEscrow.sol";
import {Invariants} from "../utils/Invariants.sol";
import {EscrowHandler} from "./EscrowHandler.sol";

/// Whatever happens in whatever order, every token is where it belongs.
contract EscrowInvariant is Invariants {
    uint256 private constant PURSE = 1_000_000e18;

    EscrowHandler private deeds;

    function setUp() public override {
        super.setUp();
        deeds = new EscrowHandler(token, escrow);
        handler = address(deeds);
        for (uint256 i = 0; i < deeds.CONSUMERS(); ++i) {
            fund(deeds.consumerAt(i), PURSE);
        }
        for (uint256 i = 0; i < deeds.PAYEES(); ++i) {
            fund(deeds.payeeAt(i), MIN_STAKE);
            bytes32 key = deeds.containerAt(i);
            vm.prank(deeds.payeeAt(i));
            registry.register(1, key, "", 0, MIN_STAKE);
        }
    }

    function invariant_everyTokenIsWhereItBelongs() public view {
        uint256 locked = 0;
        uint256 fees = 0;
        uint256[3] memory spent;
        uint256[2] memory earned;
        for (uint256 i = 0; i < deeds.count(); ++i) {
            bytes32 id = deeds.leases(i);
            LeaseEscrow.Lease memory l = escrow.lease(id);
            vm.assertLe(l.redeemed, l.deposit, "never above the deposit");
            vm.assertGe(l.redeemed, deeds.redeemedBefore(id), "never below an earlier one");
            if (l.status != 3) {
                locked += l.deposit - l.redeemed;
            } else if (deeds.closedAs(id) != 0) {
                vm.assertEq(deeds.closedAs(id), keccak256(abi.encode(l)), "closed is closed");
            }
            uint256 fee = uint256(l.redeemed) * l.feeBps / 10_000;
            fees += fee;
            earned[l.payee == deeds.payeeAt(0) ? 0 : 1] += l.redeemed - fee;
            for (uint256 j = 0; j < 3; ++j) {
                if (l.consumer == deeds.consumerAt(j)) spent[j] += l.status == 3 ? l.redeemed : l.deposit;
            }
        }
        vm.assertEq(deeds.wrong(), "", "nothing worked that should not have");
        vm.assertEq(escrow.networkFees() + deeds.networkClaimed(), fees, "the network's part");
        vm.assertEq(token.balanceOf(feeRecipient), deeds.networkClaimed(), "reached its recipient");
        uint256 held = locked + escrow.networkFees();
        for (uint256 i = 0; i < 2; ++i) {
            address payee = deeds.payeeAt(i);
            vm.assertEq(owed(payee) + deeds.claimed(payee), earned[i], "a payee's part");
            vm.assertEq(token.balanceOf(payee), deeds.claimed(payee), "reached the payee");
            held += owed(payee);
        }
        for (uint256 i = 0; i < 3; ++i) {
            vm.assertEq(token.balanceOf(deeds.consumerAt(i)), PURSE - spent[i], "a consumer lost what was billed");
        }
        vm.assertEq(token.balanceOf(address(escrow)), held, "the escrow holds what it owes, to the last unit");
    }
}

// What a wallet or a page does with viem, against the embedded chain; any surprise ends it with an error.
import assert from 'node:assert/strict'
import { pathToFileURL } from 'node:url'

const viemPath = process.env.VIEM
const viem = await import(pathToFileURL(viemPath))
const { privateKeyToAccount } = await import(pathToFileURL(viemPath.replace('index.js', 'accounts/index.js')))

const chain = viem.defineChain({
  id: Number(process.env.CHAIN_ID),
  name: 'embedded',
  nativeCurrency: { name: 'Ether', symbol: 'ETH', decimals: 18 },
  rpcUrls: { default: { http: [process.env.RPC] } },
})
const transport = viem.http(process.env.RPC, { batch: true })
const reader = viem.createPublicClient({ chain, transport, pollingInterval: 50 })
const account = privateKeyToAccount(process.env.KEY)
const writer = viem.createWalletClient({ account, chain, transport })

assert.equal(await reader.getChainId(), chain.id)
const to = '0x00000000000000000000000000000000000000aa'
const before = await reader.getBalance({ address: account.address })
const hash = await writer.sendTransaction({ to, value: viem.parseEther('2') })
const receipt = await reader.waitForTransactionReceipt({ hash })
assert.equal(receipt.status, 'success')
assert.equal(await reader.getBalance({ address: to }), viem.parseEther('2'))
const after = await reader.getBalance({ address: account.address })
assert.equal(before - after, viem.parseEther('2') + receipt.gasUsed * receipt.effectiveGasPrice)

const deployment = await writer.deployContract({ abi: [], bytecode: process.env.INITCODE })
const { contractAddress } = await reader.waitForTransactionReceipt({ hash: deployment })
const data = viem.concat([viem.pad('0x07'), viem.pad('0x63')])
const gas = await reader.estimateGas({ account: account.address, to: contractAddress, data })
const write = await writer.sendTransaction({ to: contractAddress, data, gas })
const written = await reader.waitForTransactionReceipt({ hash: write })
assert.equal(written.logs.length, 1)
assert.ok(written.gasUsed <= gas)
assert.equal(await reader.getStorageAt({ address: contractAddress, slot: '0x7' }), viem.pad('0x63'))
const logs = await reader.getLogs({ address: contractAddress, fromBlock: 0n })
assert.equal(logs[0].topics[0], viem.pad('0x07'))
assert.deepEqual((await reader.call({ to: contractAddress, data })).data, undefined)
const block = await reader.getBlock({ blockNumber: written.blockNumber, includeTransactions: true })
assert.equal(block.transactions.length, 1)
assert.equal(block.transactions[0].hash, write)
assert.equal((await reader.getTransaction({ hash: write })).from.toLowerCase(), account.address.toLowerCase())
assert.equal(await reader.getTransactionCount({ address: account.address }), 3)
const fees = await reader.estimateFeesPerGas()
assert.ok(fees.maxFeePerGas >= block.baseFeePerGas)
const history = await reader.getFeeHistory({ blockCount: 2, rewardPercentiles: [25, 75] })
assert.equal(history.baseFeePerGas.length, 3)
await assert.rejects(reader.getBalance({ address: to, blockNumber: 1n }), /state of block 1 is not kept/)
await assert.rejects(writer.sendTransaction({ to, value: viem.parseEther('99999999999') }), /insufficient funds|exceeds the balance/i)
console.log('viem: ok')

-- Renews a lease: ours is extended. A lease that expired or was lost, and that nobody took since, is taken again.
-- Another's lease is not changed.
-- KEYS: the lease
-- ARGV: its value, its life (ms), the bytes that were sent ('' if nobody counts them)
-- A lease is its holder's value, a line end, the time of acquisition, and if they are counted a line end and the bytes.
-- Returns: 1 if it is ours, 0 if it is another's
local value, life, sent = ARGV[1], ARGV[2], ARGV[3] or ''
local taken = redis.call('TIME')[1]
if redis.call('EXISTS', KEYS[1]) == 1 then
  if redis.call('GETRANGE', KEYS[1], 0, #value - 1) ~= value then
    return 0
  end
  if sent == '' then
    redis.call('PEXPIRE', KEYS[1], life)
    return 1
  end
  taken = string.match(redis.call('GETRANGE', KEYS[1], #value, 4095), '^\n(%d+)') or taken
end
if sent ~= '' then
  sent = '\n' .. sent
end
redis.call('SET', KEYS[1], value .. '\n' .. taken .. sent, 'PX', life)
return 1

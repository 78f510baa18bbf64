-- Renews a lease: ours is extended. A lease that expired or was lost, and that nobody took since, is taken again.
-- Another's lease is not changed.
-- KEYS: the lease
-- ARGV: its value, its life (ms)
-- Returns: 1 if it is ours, 0 if it is another's
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SET', KEYS[1], ARGV[1] .. '\n' .. redis.call('TIME')[1], 'PX', ARGV[2])
  return 1
end
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1

-- Deletes a lease and a waiter's entry, if they are ours.
-- KEYS: the lease, its waiters
-- ARGV: our value
-- Returns: 1 if the lease was ours
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0

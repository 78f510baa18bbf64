-- Sets a layer's must-mount flag. A flag that is set already keeps who set it, when and why.
-- KEYS: the layer's must-mount hash
-- ARGV: who sets it, and why
-- Returns: 1 if it was not set before
local since = redis.call('HGET', KEYS[1], 'since')
if since and #since <= 18 and string.find(since, '^%d+$') and tonumber(since) > 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'who', ARGV[1], 'since', redis.call('TIME')[1], 'why', ARGV[2])
return 1
